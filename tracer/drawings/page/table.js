// The table of layers and operations: sorted by any column, narrowed by a search.

const COLUMNS = [
  { name: "path", text: (row) => row.path || "(root)", breakable },
  { name: "type", text: (row) => row.type, breakable },
  { name: "input", label: "input shapes", text: (row) => listed(row.input_shapes) },
  { name: "output", label: "output shape", text: (row) => (row.output_shape ? shapeText(row.output_shape) : "") },
  { name: "params", number: (row) => row.params, text: (row) => (row.params ? exactly(row.params) : "") },
  { name: "macs", number: (row) => row.macs_sampled, text: (row) => (row.macs ? amount(row.macs) : ""), title: (row) => exactly(row.macs) },
  { name: "inferred", text: (row) => inferredText(row.resolved).join(", ") },
];

/** One row per layer and operation, and per module that was lazy itself; each row selects a node. */
function tableRows(hierarchy) {
  const groups = [...hierarchy.groups.values()].filter((group) => Object.keys(group.resolved).length);
  const rows = [...hierarchy.nodes.values()]
    .filter((node) => node.dtype && node.kind !== "input" && node.kind !== "output")
    .map((node) => ({ ...node, selects: node.id }));
  for (const group of groups) {
    const first = rows.findIndex((row) => hierarchy.aroundNode(row.id).includes(group.path));
    const row = { ...group, kind: "layer", input_shapes: [], output_shape: null, macs_sampled: 0, selects: rows[first]?.selects };
    rows.splice(Math.max(first, 0), 0, row);
  }
  return rows.map((row, order) => ({ ...row, order, sought: COLUMNS.map(({ text }) => text(row)).join(" ").toLowerCase() }));
}

class LayerTable {
  constructor(table, rows, select) {
    this.rows = rows;
    this.column = null;
    this.descending = false;
    this.headers = COLUMNS.map((column) => html("th", { scope: "col", class: column.number && "number" },
      html("button", { type: "button", click: () => this.sortBy(column) }, column.label ?? column.name)));
    this.elements = new Map(rows.map((row) => [row, this.element(row, select)]));
    this.body = html("tbody");
    table.append(html("thead", {}, html("tr", {}, this.headers)), this.body);
    this.show("");
  }

  element(row, select) {
    const act = () => select(row.selects);
    const cells = COLUMNS.map((column, index) => {
      const text = column.text(row);
      const attributes = { class: column.number ? `${column.name} number` : column.name, title: text && column.title?.(row) };
      const words = column.breakable?.(text) ?? text;
      const content = index === 0 ? html("button", { type: "button", click: act }, words) : words;
      return html("td", { ...attributes, "data-label": column.label ?? column.name }, content);
    });
    const classes = [row.kind, Object.keys(row.resolved).length && "lazy"].filter(Boolean).join(" ");
    return html("tr", { class: classes, click: (event) => event.target.closest("button") ?? act() }, cells);
  }

  /** Sorts by a column; once more, the other way round; a third time, in the order of the forward. */
  sortBy(column) {
    if (this.column !== column) [this.column, this.descending] = [column, Boolean(column.number)];
    else if (this.descending === Boolean(column.number)) this.descending = !this.descending;
    else this.column = null;
    this.headers.forEach((header, index) => {
      if (COLUMNS[index] !== this.column) header.removeAttribute("aria-sort");
      else header.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    });
    this.show(this.sought);
  }

  /** Shows the rows that contain every word; returns how many. */
  show(sought) {
    this.sought = sought;
    const words = sought.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.rows.filter((row) => words.every((word) => row.sought.includes(word)));
    if (this.column) shown.sort(this.order());
    this.body.replaceChildren(...shown.map((row) => this.elements.get(row)));
    return shown.length;
  }

  order() {
    const { number, text } = this.column;
    const compare = number
      ? (one, other) => number(one) - number(other)
      : (one, other) => text(one).localeCompare(text(other), "en", { numeric: true });
    const sign = this.descending ? -1 : 1;
    return (one, other) => sign * compare(one, other) || one.order - other.order;
  }

  /** Marks the row of a node and scrolls to it. */
  mark(id) {
    for (const [row, element] of this.elements) {
      element.classList.toggle("selected", row.selects === id);
      if (row.selects === id && isScrolled(element)) element.scrollIntoView({ block: "nearest" });
    }
  }
}

/** Whether the table scrolls on its own; where it does not, the page must stay where the reader is. */
function isScrolled(row) {
  const scroller = row.closest(".scroller");
  return scroller !== null && scroller.scrollHeight > scroller.clientHeight;
}
