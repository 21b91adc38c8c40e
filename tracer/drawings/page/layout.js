// Where everything stands. Each open module is laid out by dagre on its own; its box is then a single node of the
// module around it. So the cost is that of what is visible, and opening a module moves only what is around it.

const TEXT = { size: 13, small: 11, line: 17, family: 'system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif' };
const BOX = { padding: 12, header: 28, margin: 14 };
// So many boxes are easily overlooked at once; the modules opened at first keep to it.
const READABLE = 36;
// A module with more items than the first is divided into sections of at least the second.
const MOST = 40;
const SECTION = 20;
// More ports on one side of a module are drawn as one, and more values between the same two items as one link.
const MANY_PORTS = 6;
const MANY_VALUES = 3;

const measuring = document.createElement("canvas").getContext("2d");

function textWidth(text, size, weight = 400) {
  measuring.font = `${weight} ${size}px ${TEXT.family}`;
  return measuring.measureText(text).width;
}

/**
 * The modules, and in each of them the links between the items that stand in it.
 *
 * An item is a node or a module; where a module has very many, they stand in sections of it, so that a layout is
 * never of more than MOST items. A value that crosses the border of a module is linked to a port there, one for each
 * value unless they are many; so what is inside a module is the same whether it is open or not.
 */
class Hierarchy {
  constructor(data) {
    this.nodes = new Map(data.nodes.map((node) => [node.id, node]));
    this.groups = new Map();
    this.homes = new Map(data.nodes.map((node) => [node.id, node.group]));
    for (const group of data.groups) {
      this.groups.set(group.path, { ...group, items: [], links: new Map(), count: 0, lazies: 0, title: within(group.path, group.parent) });
    }
    for (const node of data.nodes) this.stand(node);
    for (const group of [...this.groups.values()]) this.divide(group);
    for (const edge of data.edges) this.link(edge);
    for (const group of this.groups.values()) group.links = merged(group.links);
  }

  /** Puts a node into its module, and each module that is new into the one around it: in the order of the forward. */
  stand(node) {
    this.groups.get(node.group).items.push({ key: `node ${node.id}`, title: nameOf(node), node });
    for (const path of this.around(node.group)) {
      const group = this.groups.get(path);
      if (group.parent !== null && group.count === 0) {
        this.groups.get(group.parent).items.push({ key: `group ${path}`, title: group.title, group });
      }
      group.count += isCalled(node);
      group.lazies += isLazy(node);
    }
  }

  /** Sections of consecutive items, where a module has more than MOST. */
  divide(group) {
    const { items, path } = group;
    if (items.length <= MOST) return;
    const size = Math.max(SECTION, Math.ceil(items.length / MOST));
    group.items = [];
    for (let start = 0; start < items.length; start += size) {
      const part = items.slice(start, start + size);
      const section = { path: `${path}[${start}]`, parent: path, type: "", resolved: {}, items: part, links: new Map() };
      section.title = `${part[0].title} … ${part.at(-1).title}`;
      section.count = sum(part, (item) => (item.node ? isCalled(item.node) : item.group.count));
      section.lazies = sum(part, (item) => (item.node ? isLazy(item.node) : item.group.lazies));
      for (const item of part) {
        if (item.node) this.homes.set(item.node.id, section.path);
        else item.group.parent = section.path;
      }
      this.groups.set(section.path, section);
      group.items.push({ key: `group ${section.path}`, title: section.title, group: section });
      this.divide(section);
    }
  }

  /** The paths of a group and those around it, innermost first. */
  around(path) {
    const paths = [];
    for (let at = path; at !== null; at = this.groups.get(at).parent) paths.push(at);
    return paths;
  }

  aroundNode(id) {
    return this.around(this.homes.get(id));
  }

  link({ source, target, shape }) {
    const value = { source, target, shape };
    const outer = this.aroundNode(target);
    let from = `node ${source}`;
    const meeting = this.aroundNode(source).find((path) => {
      if (outer.includes(path)) return true;
      this.add(path, from, `out ${source}`, value);
      from = `group ${path}`;
      return false;
    });
    let to = `node ${target}`;
    for (const path of outer.slice(0, outer.indexOf(meeting))) {
      this.add(path, `in ${source}`, to, value);
      to = `group ${path}`;
    }
    this.add(meeting, from, to, value);
  }

  add(path, from, to, { source, target, shape }) {
    const { links } = this.groups.get(path);
    const key = `${from} ${to} ${source}`;
    if (!links.has(key)) links.set(key, { from, to, values: [source], shape, ends: new Set() });
    links.get(key).ends.add(`${source} ${target}`);
  }

  /** The modules to open at first: whole levels, as long as everything visible is easily overlooked. */
  readable() {
    const open = new Set([""]);
    let visible = this.groups.get("").items.length;
    let level = [this.groups.get("")];
    for (;;) {
      level = level.flatMap((group) => group.items.flatMap((item) => item.group ?? []));
      visible += sum(level, (group) => group.items.length);
      if (!level.length || visible > READABLE) return open;
      for (const group of level) open.add(group.path);
    }
  }
}

/** The links of a module, in which many ports on one side are one, and many values between two items are one link. */
function merged(links) {
  const ports = (side) => new Set([...links.values()].flatMap(({ from, to }) => [from, to]).filter((end) => end.startsWith(side)));
  const manyIn = ports("in ").size > MANY_PORTS;
  const manyOut = ports("out ").size > MANY_PORTS;
  const byEnds = new Map();
  for (const link of links.values()) {
    const from = manyIn && link.from.startsWith("in ") ? "in all" : link.from;
    const to = manyOut && link.to.startsWith("out ") ? "out all" : link.to;
    const key = `${from} ${to}`;
    byEnds.set(key, [...(byEnds.get(key) ?? []), { ...link, from, to }]);
  }
  return [...byEnds.values()].flatMap((parallel) => (parallel.length > MANY_VALUES ? [joined(parallel)] : parallel));
}

function joined(links) {
  const values = links.flatMap((link) => link.values);
  const ends = new Set(links.flatMap((link) => [...link.ends]));
  return { ...links[0], values, ends, shape: `${values.length} values` };
}

/** The layout of the open modules, remembered until something inside is opened or closed. */
class Layout {
  constructor(hierarchy, open) {
    this.hierarchy = hierarchy;
    this.open = open;
    this.known = new Map();
  }

  toggle(path) {
    if (!this.open.delete(path)) this.open.add(path);
    for (const outer of this.hierarchy.around(path)) this.known.delete(outer);
  }

  openOnly(paths) {
    this.open = new Set(["", ...paths]);
    this.known.clear();
  }

  /** Opens what is around a node, so that it can be seen; whether anything changed. */
  reveal(id) {
    const closed = this.hierarchy.aroundNode(id).filter((path) => !this.open.has(path));
    closed.forEach((path) => this.toggle(path));
    return closed.length > 0;
  }

  /** Boxes and links of an open module, from its upper left corner. */
  of(path) {
    if (!this.known.has(path)) this.known.set(path, this.compute(this.hierarchy.groups.get(path)));
    return this.known.get(path);
  }

  size(item) {
    if (item.group) return this.open.has(item.group.path) ? this.of(item.group.path) : closedSize(item.group);
    return nodeSize(item.node);
  }

  compute(group) {
    const graph = new dagre.graphlib.Graph({ multigraph: true });
    graph.setGraph({ ranksep: 26, nodesep: 22, edgesep: 14, marginx: BOX.margin, marginy: 0 });
    for (const item of group.items) {
      const { width, height } = this.size(item);
      graph.setNode(item.key, { width, height });
    }
    const { links } = group;
    const ports = new Set(links.flatMap(({ from, to }) => [from, to]).filter((end) => !graph.hasNode(end)));
    // A heavy edge to one point above (or below) all keeps each port at the border.
    for (const port of ports) {
      graph.setNode(port, { width: 2, height: 0 });
      const [from, to] = port.startsWith("in ") ? ["above", port] : [port, "below"];
      for (const end of [from, to]) if (!graph.hasNode(end)) graph.setNode(end, { width: 0, height: 0 });
      graph.setEdge(from, to, { weight: 1000, width: 0, height: 0 }, "border");
    }
    for (const link of links) {
      const label = ports.has(link.from) || ports.has(link.to) ? "" : link.shape;
      const width = label ? textWidth(label, TEXT.small, 600) + 8 : 0;
      graph.setEdge(link.from, link.to, { width, height: label ? TEXT.line : 0, labelpos: "c", label, link }, link.values[0]);
    }
    dagre.layout(graph);
    return this.framed(group, graph, ports);
  }

  /** dagre's result with the module's header above it, and links that end at its border where they cross it. */
  framed(group, graph, ports) {
    const isRoot = group.parent === null;
    const content = [...group.items.map((item) => item.key), ...ports].map((key) => graph.node(key));
    const top = Math.min(...content.map((box) => box.y - box.height / 2));
    const bottom = Math.max(...content.map((box) => box.y + box.height / 2));
    const above = isRoot ? BOX.margin : BOX.header + ([...ports].some((port) => port.startsWith("in ")) ? 0 : BOX.margin);
    const below = isRoot || ![...ports].some((port) => port.startsWith("out ")) ? BOX.margin : 0;
    const shift = above - top;
    const least = isRoot ? 0 : closedSize(group).width;
    const aside = Math.max(0, (least - graph.graph().width) / 2);
    const place = ({ x, y }) => ({ x: x + aside, y: y + shift });
    const boxes = group.items.map((item) => {
      const { x, y, width, height } = graph.node(item.key);
      const centre = place({ x, y });
      return { item, width, height, x: centre.x - width / 2, y: centre.y - height / 2 };
    });
    const portX = new Map([...ports].map((port) => [port, place(graph.node(port)).x]));
    const boxOf = new Map(boxes.map((box) => [box.item.key, box]));
    const size = { width: graph.graph().width + 2 * aside, height: bottom - top + above + below };
    const links = graph.edges().map((edge) => graph.edge(edge)).filter((edge) => edge.link).map((edge) => {
      const points = edge.points.map(place);
      const [value] = edge.link.values;
      points[0] = this.end(boxOf.get(edge.link.from), `out ${value}`, "bottom")
        ?? (portX.has(edge.link.from) ? { x: portX.get(edge.link.from), y: BOX.header } : points[0]);
      points[points.length - 1] = this.end(boxOf.get(edge.link.to), `in ${value}`, "top")
        ?? (portX.has(edge.link.to) ? { x: portX.get(edge.link.to), y: size.height } : points.at(-1));
      return { ...edge.link, points, label: edge.label, ...place(edge), labelWidth: edge.width };
    });
    return { ...size, boxes, links, portX };
  }

  /** Where a link meets an open module: at the port of its value. */
  end(box, port, side) {
    if (!box?.item.group || !this.open.has(box.item.group.path)) return null;
    const { portX } = this.of(box.item.group.path);
    const x = portX.get(port) ?? portX.get(port.startsWith("in ") ? "in all" : "out all");
    return { x: box.x + x, y: side === "top" ? box.y : box.y + box.height };
  }
}

function nodeSize(node) {
  const lines = inferredText(node.resolved);
  const widths = [titleWidth(nameOf(node), subtitle(node)), ...lines.map((line) => textWidth(line, TEXT.small, 600))];
  return { width: Math.max(...widths) + 2 * BOX.padding, height: TEXT.line * (1 + lines.length) + 12 };
}

function closedSize(group) {
  const lines = groupLines(group);
  const widths = [titleWidth(group.title, group.type) + 16, ...lines.map((line) => textWidth(line, TEXT.small, 600))];
  return { width: Math.max(...widths) + 2 * BOX.padding, height: TEXT.line * (1 + lines.length) + 14 };
}

function groupLines(group) {
  const lazies = group.lazies ? `, ${group.lazies} lazy` : "";
  return [`${group.count} ${group.count === 1 ? "operation" : "operations"}${lazies}`, ...inferredText(group.resolved)];
}

function isCalled(node) {
  return node.kind === "layer" || node.kind === "operation" ? 1 : 0;
}

function isLazy(node) {
  return Object.keys(node.resolved).length ? 1 : 0;
}

function sum(items, amountOf) {
  return items.reduce((total, item) => total + amountOf(item), 0);
}

/** What stands behind a node's name. */
function subtitle(node) {
  const behind = { layer: node.type, input: "input", tensor: "tensor" }[node.kind] ?? "";
  return behind === nameOf(node) ? "" : behind;
}

function titleWidth(name, type) {
  return textWidth(name, TEXT.size, 600) + (type ? 7 + textWidth(type, TEXT.size) : 0);
}
