// The graph as SVG. What is drawn depends only on the layout and on the selected chain.

/** The drawing of the root module; `act` has `select(id)` and `toggle(path)`, `chain` the ids on the selected way. */
function drawing(layout, chain, act) {
  const root = layout.of("");
  const arrow = svg("marker", {
    id: "arrow", viewBox: "0 0 8 8", refX: 7.5, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto",
  }, svg("path", { d: "M0 0.5 8 4 0 7.5z" }));
  return svg(
    "svg",
    { viewBox: `0 0 ${Math.ceil(root.width)} ${Math.ceil(root.height)}`, role: "group", "aria-label": "Graph of the model" },
    svg("defs", {}, arrow),
    contents("", layout, chain, act),
  );
}

function contents(path, layout, chain, act) {
  const { boxes, links } = layout.of(path);
  return svg(
    "g",
    {},
    links.map((link) => linkLine(link, chain)),
    boxes.map((box) => (box.item.node ? nodeBox(box, chain, act) : groupBox(box, layout, chain, act))),
    links.map((link) => linkLabel(link, chain)),
  );
}

function onChain(link, chain) {
  return chain.some((id, index) => index > 0 && link.ends.has(`${chain[index - 1]} ${id}`));
}

function linkLine(link, chain) {
  const ends = link.to.startsWith("out ") ? null : "url(#arrow)";
  const kind = onChain(link, chain) ? "link on-chain" : "link";
  return svg("path", { class: kind, d: smooth(link.points), "marker-end": ends });
}

/** A curve through the middles of the stretches between the points. */
function smooth(points) {
  const [first, ...rest] = points;
  const last = rest.at(-1);
  const bends = rest.slice(0, -1).map((point, index) => {
    const next = rest[index + 1];
    const end = index === rest.length - 2 ? next : { x: (point.x + next.x) / 2, y: (point.y + next.y) / 2 };
    return `Q${point.x} ${point.y} ${end.x} ${end.y}`;
  });
  return `M${first.x} ${first.y}${bends.join("") || `L${last.x} ${last.y}`}`;
}

function linkLabel(link, chain) {
  if (!link.label) return null;
  const { x, y, label, labelWidth } = link;
  return svg(
    "g",
    { class: onChain(link, chain) ? "shape on-chain" : "shape" },
    svg("rect", { x: x - labelWidth / 2, y: y - 8, width: labelWidth, height: 16, rx: 4 }),
    svg("text", { x, y: y + 4, "font-size": TEXT.small, "text-anchor": "middle" }, label),
  );
}

function nodeBox({ item: { node }, x, y, width, height }, chain, act) {
  const lines = inferredText(node.resolved);
  const classes = ["node", node.kind, lines.length && "lazy", chain.includes(node.id) && "on-chain"];
  classes.push(chain.at(-1) === node.id && "selected");
  const round = node.kind === "input" || node.kind === "output" ? height / 2 : 6;
  const select = () => act.select(node.id);
  return svg(
    "g",
    {
      class: classes.filter(Boolean).join(" "), transform: `translate(${x} ${y})`, tabindex: 0, role: "button",
      "aria-label": spoken(node), "data-node": node.id, click: select, keydown: whenPressed(select),
    },
    svg("title", {}, spoken(node)),
    svg("rect", { width, height, rx: round }),
    titleText(nameOf(node), subtitle(node), width / 2, 20),
    lines.map((line, index) => inferredLine(line, width / 2, 20 + TEXT.line * (index + 1))),
  );
}

function groupBox({ item: { group }, x, y, width, height }, layout, chain, act) {
  const isOpen = layout.open.has(group.path);
  const inside = chain.some((id) => layout.hierarchy.aroundNode(id).includes(group.path));
  const classes = ["group", isOpen ? "open" : "closed", Object.keys(group.resolved).length && "lazy"];
  classes.push(!isOpen && inside && "on-chain");
  const toggle = () => act.toggle(group.path);
  const title = titleText(group.title, group.type, 0, 0, isOpen ? "▾" : "▸");
  title.setAttribute("transform", `translate(${isOpen ? BOX.padding : width / 2} ${isOpen ? 19 : 21})`);
  title.setAttribute("text-anchor", isOpen ? "start" : "middle");
  const lines = isOpen ? [] : groupLines(group);
  const header = svg(
    "g",
    {
      class: "header", tabindex: 0, role: "button", "aria-expanded": String(isOpen), "data-group": group.path,
      "aria-label": [`module ${group.path}`, group.type, ...groupLines(group)].filter(Boolean).join(", "),
      click: toggle, keydown: whenPressed(toggle),
    },
    svg("rect", { class: "header-box", width, height: isOpen ? BOX.header : height, rx: 8 }),
    title,
    lines.map((line, index) => groupLine(line, index, width / 2)),
  );
  return svg(
    "g",
    { class: classes.filter(Boolean).join(" "), transform: `translate(${x} ${y})` },
    svg("rect", { class: "frame", width, height, rx: 8 }),
    isOpen ? contents(group.path, layout, chain, act) : null,
    header,
  );
}

function groupLine(line, index, x) {
  const y = 21 + TEXT.line * (index + 1);
  if (index > 0) return inferredLine(line, x, y);
  const [count, lazies] = line.split(/(?=, )/);
  const marked = lazies ? svg("tspan", { class: "inferred" }, lazies) : null;
  return svg("text", { class: "quiet", x, y, "font-size": TEXT.small, "text-anchor": "middle" }, count, marked);
}

function titleText(name, type, x, y, mark = "") {
  return svg(
    "text",
    { x, y, "font-size": TEXT.size, "text-anchor": "middle" },
    mark ? svg("tspan", { class: "mark" }, mark) : null,
    svg("tspan", { class: "name", dx: mark ? 5 : 0 }, name),
    type ? svg("tspan", { class: "type", dx: 7 }, type) : null,
  );
}

function inferredLine(line, x, y) {
  return svg("text", { class: "inferred", x, y, "font-size": TEXT.small, "text-anchor": "middle" }, line);
}

function spoken(node) {
  const facts = [[subtitle(node) || node.kind, node.path || node.type].join(" "), ...inferredText(node.resolved)];
  if (node.dtype) facts.push(`${shapeText(node.output_shape)} ${node.dtype}`);
  if (node.source) facts.push(node.source);
  return facts.join(", ");
}

/** A handler of keys that does what a click does. */
function whenPressed(action) {
  return (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    action();
  };
}
