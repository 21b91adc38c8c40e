// What the page shows at present, and what changes it.

function showPage() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const hierarchy = new Hierarchy(data);
  const layout = new Layout(hierarchy, hierarchy.readable());
  const pane = new Pane(at("pane"));
  let chain = [];

  const act = { select, toggle };
  const table = new LayerTable(document.querySelector("#layers table"), tableRows(hierarchy), select);

  function draw() {
    pane.show(drawing(layout, chain, act));
  }

  function select(id) {
    chain = chainTo(id, hierarchy.nodes);
    const isSeen = !layout.reveal(id);
    const focused = at("pane").contains(document.activeElement);
    draw();
    const box = at("pane").querySelector(`[data-node="${CSS.escape(id)}"]`);
    pane.bringIntoView(box, isSeen);
    if (focused) box.focus({ preventScroll: true });
    at("detail").replaceChildren(...detail(chain, hierarchy.nodes, select));
    at("detail").scrollTop = at("detail").scrollHeight;
    table.mark(id);
  }

  /** Opens or closes a module; its header stays where it is. */
  function toggle(path) {
    const header = () => at("pane").querySelector(`[data-group="${CSS.escape(path)}"]`);
    const before = header().getBoundingClientRect();
    layout.toggle(path);
    draw();
    const after = header().getBoundingClientRect();
    at("pane").scrollBy(after.x - before.x, after.y - before.y);
    header().focus({ preventScroll: true });
  }

  function openOnly(paths) {
    layout.openOnly(paths);
    draw();
    pane.toStart();
  }

  function search() {
    const count = table.show(at("search").value);
    at("found").textContent = `${count} of ${table.rows.length}`;
  }

  showFacts(data, hierarchy);
  at("detail").replaceChildren(...detail(chain, hierarchy.nodes, select));
  at("expand").addEventListener("click", () => openOnly(hierarchy.groups.keys()));
  at("collapse").addEventListener("click", () => openOnly([]));
  at("fit").addEventListener("click", () => pane.fit());
  at("larger").addEventListener("click", () => pane.zoomBy(1.25));
  at("smaller").addEventListener("click", () => pane.zoomBy(0.8));
  at("search").addEventListener("input", search);
  search();
  draw();
  pane.begin();
  document.documentElement.dataset.openedIn = String(performance.now());
}

function showFacts(data, hierarchy) {
  const at = (id) => document.getElementById(id);
  const total = (name, value, exact) => html("div", {}, html("dt", {}, name), html("dd", { title: exact }, value));
  const spec = ([name, text]) => `${name} ${text}`;
  at("model").textContent = data.model;
  at("signature").textContent = `${Object.entries(data.inputs).map(spec).join(", ")} → ${data.outputs.join(", ")}`;
  at("totals").replaceChildren(
    total("parameters", amount(data.params), exactly(data.params)),
    total("multiply-adds", amount(data.macs), exactly(data.macs)),
    total("operations", String(hierarchy.groups.get("").count)),
    total("lazy layers", String(data.lazy_layers)),
    total("guards", String(data.guards.length)),
  );
  const place = (fact) => [fact.path || "the model's forward", fact.source].filter(Boolean).join(", ");
  const unknown = (rung) => data.guards_unknown.includes(rung.path || data.model) ? "; what it asks of named sizes is not known" : "";
  at("notes").replaceChildren(
    note("Made for", data.constraints, (constraint) => [constraint, "promised with the sample"], true),
    note("Holds if", data.guards.filter((guard) => guard.dynamic), (guard) => [guard.condition, place(guard)], true),
    note("Facts of the fixed sample", data.guards.filter((guard) => !guard.dynamic), (guard) => [guard.condition, place(guard)]),
    note("Fixed by the guards", Object.entries(data.pinned), ([name, size]) => [`${name} = ${size}`, "the guards hold at no other size"], true),
    note("Not traced", data.rungs, (rung) => [rung.path || data.model, `followed on ${rung.level === "real" ? "data" : "meta tensors"}: ${rung.reason}${unknown(rung)}`], true),
    note("Written by the forward", data.left_behind, (name) => [name, "an exported file does not keep that, unless by state=explicit"], true),
    note("Never reached by the sample", data.unreached, (path) => [path, "stays lazy"], true),
  );
}

/** A list that can be opened, or nothing where there is nothing to say. */
function note(title, facts, parts, isOpen = false) {
  if (!facts.length) return "";
  const items = facts.map((fact) => {
    const [text, more] = parts(fact);
    return html("li", {}, html("code", {}, text), " ", html("span", { class: "quiet" }, more));
  });
  return html("details", { open: isOpen && facts.length <= 3 && "" }, html("summary", {}, `${title} (${facts.length})`), html("ul", {}, items));
}

/** The scrolled area around the drawing: drag and wheel pan, Ctrl and wheel or two fingers zoom. */
class Pane {
  constructor(element) {
    this.element = element;
    this.zoom = 1;
    this.fingers = new Map();
    element.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this.onDown(event));
    element.addEventListener("pointermove", (event) => this.onMove(event));
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
      element.addEventListener(end, (event) => this.fingers.delete(event.pointerId));
    }
    element.addEventListener("click", (event) => this.dragged && event.stopPropagation(), { capture: true });
  }

  show(drawn) {
    this.drawn = drawn;
    this.element.replaceChildren(drawn);
    drawn.style.setProperty("--natural", `${this.size.width}px`);
    this.scale();
  }

  get size() {
    return this.drawn.viewBox.baseVal;
  }

  scale() {
    this.drawn.setAttribute("width", this.size.width * this.zoom);
    this.drawn.setAttribute("height", this.size.height * this.zoom);
  }

  /** As large as it fits in width, but neither enlarged nor too small to read. */
  begin() {
    this.zoom = Math.min(1, Math.max(0.7, this.element.clientWidth / this.size.width));
    this.scale();
    this.toStart();
  }

  /** Scrolls to where the forward begins. */
  toStart() {
    this.bringIntoView(this.drawn.querySelector(".node, .header"), false);
  }

  fit() {
    this.zoom = Math.min(1, this.element.clientWidth / this.size.width, this.element.clientHeight / this.size.height);
    this.scale();
  }

  zoomBy(factor, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    const zoom = Math.min(3, Math.max(0.1, this.zoom * factor));
    const left = ((this.element.scrollLeft + x) * zoom) / this.zoom - x;
    const top = ((this.element.scrollTop + y) * zoom) / this.zoom - y;
    this.zoom = zoom;
    this.scale();
    this.element.scrollTo(left, top);
  }

  zoomAround(factor, { clientX, clientY }) {
    const { left, top } = this.element.getBoundingClientRect();
    this.zoomBy(factor, clientX - left, clientY - top);
  }

  /** Scrolls to a box: no further than necessary where it could be seen before, else to the middle. */
  bringIntoView(box, nearest) {
    const outer = this.element.getBoundingClientRect();
    const { left, right, top, bottom } = box.getBoundingClientRect();
    const isInside = left >= outer.left && right <= outer.right && top >= outer.top && bottom <= outer.bottom;
    if (isInside && nearest) return;
    this.element.scrollBy((left + right - outer.left - outer.right) / 2, (top + bottom - outer.top - outer.bottom) / 2);
  }

  onWheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoomAround(Math.exp(-event.deltaY / 300), event);
  }

  onDown(event) {
    this.dragged = false;
    this.fingers.set(event.pointerId, event);
  }

  onMove(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    if (this.fingers.size === 2) this.pinch(before, event);
    else if (event.pointerType === "mouse") this.drag(before, event);
  }

  drag(before, event) {
    const [x, y] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (!this.dragged && Math.hypot(x, y) < 4) return;
    this.dragged = true;
    this.element.scrollBy(-x, -y);
    this.fingers.set(event.pointerId, event);
  }

  pinch(before, event) {
    const other = [...this.fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    const distance = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
    const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
    this.fingers.set(event.pointerId, event);
    if (distance(before) > 0) this.zoomAround(distance(event) / distance(before), middle);
  }
}

showPage();
