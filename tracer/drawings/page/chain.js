// The selected layer: what is known of it, and the way of its shape from the input.

/** The ids of the nodes from an input to this one, each the one from which the next has its shape. */
function chainTo(id, nodes) {
  const chain = [];
  for (let at = id; at !== null; at = nodes.get(at).shape_from) chain.unshift(at);
  return chain;
}

function detail(chain, nodes, select) {
  if (!chain.length) {
    return [html("p", { class: "hint" }, "Choose a layer, in the graph or in the table, to see how its shape comes about.")];
  }
  const node = nodes.get(chain.at(-1));
  const facts = [
    subtitle(node),
    node.params ? `${exactly(node.params)} parameters` : null,
    node.macs ? `${amount(node.macs)} multiply-adds` : null,
    node.source ? `called at ${node.source}` : null,
  ];
  return [
    html(
      "div",
      { class: "heading" },
      html("h2", {}, fullName(node)),
      html("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
      inferredText(node.resolved).map((text) => html("span", { class: "pill" }, text)),
    ),
    html("ol", { class: "chain", "aria-label": "The way of its shape, from the input" },
      chain.map((id, index) => step(nodes, chain, index, () => select(id)))),
  ];
}

function step(nodes, chain, index, select) {
  const node = nodes.get(chain[index]);
  const before = index ? nodes.get(chain[index - 1]).output_shape : null;
  const isSame = before && shapeText(before) === shapeText(node.output_shape);
  const classes = [isSame && "same", Object.keys(node.resolved).length && "lazy"].filter(Boolean).join(" ");
  const operands = node.input_shapes.length > 1 ? `of ${listed(node.input_shapes)}` : null;
  return html(
    "li",
    { class: classes },
    html("span", {},
      html("button", { type: "button", click: select, "aria-current": index === chain.length - 1 && "true" }, breakable(fullName(node))),
      " ", html("span", { class: "type" }, subtitle(node))),
    html("span", { class: "result" }, changedAxes(node.output_shape, before),
      operands ? html("span", { class: "operands" }, operands) : null),
    html("span", { class: "place" }, node.source ?? ""),
  );
}

function fullName(node) {
  if (node.kind === "operation") return operationName(node);
  return node.path || node.type;
}

function operationName(node) {
  return node.group ? `${node.type} in ${node.group}` : node.type;
}

/** The shape with the axes in bold that differ from those before. */
function changedAxes(shape, before) {
  if (Array.isArray(shape[0]) || !shape.length) return shapeText(shape);
  const comparable = before && !Array.isArray(before[0]) && before.length === shape.length;
  return shape.flatMap((size, axis) => {
    const isNew = before && (!comparable || size !== before[axis]);
    return [axis ? "×" : null, isNew ? html("b", {}, sizeText(size)) : sizeText(size)];
  });
}
