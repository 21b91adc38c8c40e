// Numbers, shapes and elements.

const UNITS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const MANY_SHAPES = 6;

/** 25557032 as "25.6 M". */
function abbreviated(number) {
  const [size, unit] = UNITS.find(([size]) => number >= size) ?? [1, ""];
  const digits = Number((number / size).toPrecision(3));
  return unit ? `${digits} ${unit}` : String(digits);
}

/** A number or a formula, its long numbers abbreviated: "4.09 G*N". */
function amount(value) {
  return typeof value === "number"
    ? abbreviated(value)
    : value.replace(/\d{4,}/g, (digits) => abbreviated(Number(digits))).replaceAll("*", "·");
}

function exactly(value) {
  return typeof value === "number" ? value.toLocaleString("en") : value;
}

/** The text of one axis; a sum stands in parentheses. */
function sizeText(size) {
  return String(size).includes(" ") ? `(${size})` : String(size);
}

/** [64, "N"] as "64×N"; several shapes one after the other. */
function shapeText(shape) {
  if (Array.isArray(shape[0])) return listed(shape);
  return shape.map(sizeText).join("×") || "scalar";
}

/** Shapes one after the other, of very many the first few. */
function listed(shapes) {
  const texts = shapes.slice(0, MANY_SHAPES).map(shapeText);
  return (shapes.length > MANY_SHAPES ? [...texts, `… ${shapes.length} in all`] : texts).join(", ");
}

function inferredText(resolved) {
  return Object.entries(resolved).map(([name, size]) => `${name} = ${size}`);
}

/** Text that may be broken after dots and underscores and between the words of a class's name. */
function breakable(text) {
  return text.split(/(?<=[._])|(?<=[a-z])(?=[A-Z])/).flatMap((part, index) => (index ? [html("wbr"), part] : [part]));
}

/** A path as the module around it names it. */
function within(path, outer) {
  return outer ? path.slice(outer.length + 1) : path;
}

/** What a node is called inside its module. */
function nameOf(node) {
  return (node.kind !== "operation" && within(node.path, node.group)) || node.type;
}

/** An HTML element; children are elements or text. */
function html(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** An SVG element. */
function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}
