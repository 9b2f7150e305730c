// Where the pointer is over one picture of a record, the others mark the same token: a line in the map and in the
// density, a frame in the text. Listeners are on the document, since the pictures are drawn anew at every step.

const COLOUR = "#d6336c";
const marks = new Set();  // what is drawn now, each as a function that takes it away

function group(element) {
  return element instanceof Element ? element.closest("[class*=st-key-hover-]") : null;
}

function stepOf(root, steps) {
  const name = [...root.classList].find((one) => one.startsWith("st-key-hover-"));
  return steps[name.slice("st-key-".length)];
}

function parts(root) {
  const [map, density] = root.querySelectorAll(".js-plotly-plot");
  return { map, density, text: root.querySelector("[role=region]") };
}

// The value on the x axis below the pointer; null beside the axes.
function valueAt(figure, event) {
  const { xaxis, yaxis } = figure._fullLayout ?? {};
  if (!xaxis || !yaxis) return null;
  const place = figure.getBoundingClientRect();
  const x = event.clientX - place.left - xaxis._offset;
  const y = event.clientY - place.top - yaxis._offset;
  if (x < 0 || y < 0 || x > xaxis._length || y > yaxis._length) return null;
  return xaxis.p2d(x);
}

function positionAt(root, steps, event) {
  const { map, density, text } = parts(root);
  const read = stepOf(root, steps) + 1;
  const figure = event.target.closest(".js-plotly-plot");
  let position = null;
  if (figure) {
    const value = valueAt(figure, event);
    if (value !== null) position = Math.round(figure === density ? read - value : value);
  } else if (text && text.contains(event.target)) {
    const found = /^position (\d+)/.exec(event.target.getAttribute("title") ?? "");
    if (found) position = Number(found[1]);
  }
  return position !== null && position >= 0 && position < read ? position : null;
}

function line(figure, value, words) {
  const { xaxis, yaxis } = figure?._fullLayout ?? {};
  if (!xaxis || !yaxis || figure.offsetParent === null) return;
  const x = xaxis.d2p(value);
  if (!(x >= 0 && x <= xaxis._length)) return;
  const mark = document.createElement("div");
  mark.className = "treekv-mark";
  mark.style.cssText =
    `position:absolute;pointer-events:none;left:${xaxis._offset + x}px;top:${yaxis._offset}px;` +
    `height:${yaxis._length}px;border-left:2px solid ${COLOUR};z-index:2`;
  const label = document.createElement("span");
  const side = x > xaxis._length / 2 ? "right:2px" : "left:2px";
  label.style.cssText =
    `position:absolute;top:0;${side};background:${COLOUR};color:#fff;font:12px system-ui,sans-serif;` +
    "padding:1px 5px;white-space:nowrap";
  label.textContent = words;
  mark.append(label);
  const ground = figure.querySelector(".svg-container") ?? figure;
  ground.append(mark);
  marks.add(() => mark.remove());
}

function frame(text, position, scroll) {
  const spans = text?.querySelectorAll("span[title^='position ']") ?? [];
  if (!spans.length) return;
  const first = Number(/\d+/.exec(spans[0].title)[0]);
  const span = spans[position - first];
  if (!span) return;
  span.style.outline = `2px solid ${COLOUR}`;
  marks.add(() => { span.style.outline = ""; });
  if (!scroll) return;
  const around = text.getBoundingClientRect(), place = span.getBoundingClientRect();
  if (place.top < around.top || place.bottom > around.bottom) {
    text.scrollTop += place.top + place.height / 2 - around.top - around.height / 2;
  }
}

function clear() {
  marks.forEach((undo) => undo());
  marks.clear();
}

let undo = null;  // takes the listener away: Streamlit calls this anew for new data, without an end of the old

export default function linkedHover({ data }) {
  undo?.();
  const { steps } = data;
  let shown = { over: null, position: null };
  const move = (event) => {
    const root = group(event.target);
    const position = root ? positionAt(root, steps, event) : null;
    const over = position === null ? null : event.target.closest(".js-plotly-plot, [role=region]");
    if (over !== null && over === shown.over && position === shown.position) return;
    clear();
    shown = { over, position };
    if (over === null) return;
    const { map, density, text } = parts(root);
    const words = `position ${position.toLocaleString("en")}`;
    if (over !== map) line(map, position, words);
    if (over !== density) line(density, stepOf(root, steps) + 1 - position, words);
    frame(text, position, over !== text);
  };
  document.addEventListener("pointermove", move);
  const end = () => {
    document.removeEventListener("pointermove", move);
    clear();
    if (undo === end) undo = null;
  };
  return undo = end;
}
