// Plots of the last minutes as SVG. A plot is given points of [seconds, value or null] and draws nothing else than those:
// a gap in what was measured is a gap in the curve.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600, HEIGHT = 150, LEFT = 44, BOTTOM = 18, TOP = 8;
export const COLOURS = 8;

/** series: [{name, dashed, points: [[at_s, value|null], …]}], spanS seconds up to nowS. */
export function plot(title, series, { nowS, spanS, unit = "" }) {
  const figure = document.createElement("figure");
  figure.className = "plot";
  figure.style.margin = 0;
  figure.dataset.title = title;
  figure.append(element("h3", title + (unit ? `, ${unit}` : "")));
  const top = nice(Math.max(...series.flatMap((one) => one.points.map(([, value]) => value ?? 0)), 0));
  const x = (at) => LEFT + ((at - (nowS - spanS)) / spanS) * (WIDTH - LEFT);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const share of [0, 0.5, 1]) {
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(top * share), y2: y(top * share) }));
    svg.append(draw("text", { x: LEFT - 6, y: y(top * share) + 3, "text-anchor": "end" }, short(top * share)));
  }
  for (const share of [0, 1 / 3, 2 / 3]) {
    const label = `−${duration(spanS * (1 - share))}`;
    svg.append(draw("text", { x: LEFT + share * (WIDTH - LEFT), y: HEIGHT - 4 }, label));
  }
  svg.append(draw("text", { x: WIDTH, y: HEIGHT - 4, "text-anchor": "end" }, "now"));
  series.forEach((one, number) => {
    svg.append(draw("path", { class: `curve c${number % COLOURS}${one.dashed ? " dashed" : ""}`, d: path(one.points, x, y, nowS - spanS) }));
  });
  figure.append(svg, legend(series));
  return figure;
}

/** Pieces between gaps; a lone point is drawn as a dash of one pixel. */
export function path(points, x, y, from) {
  let text = "", open = false;
  for (const [at, value] of points) {
    if (value === null || value === undefined) {
      open = false;
    } else if (at >= from) {
      text += `${open ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}${open ? "" : "h1"}`;
      open = true;
    }
  }
  return text;
}

function legend(series) {
  const box = element("div");
  box.className = "legend";
  series.forEach((one, number) => {
    const item = element("span");
    const swatch = element("span");
    swatch.className = `swatch c${number % COLOURS}`;
    const last = one.points.length ? one.points[one.points.length - 1][1] : null;
    item.append(swatch, `${one.name} `, element("b", last === null || last === undefined ? "–" : short(last)));
    box.append(item);
  });
  return box;
}

/** The next of 1, 2, 5, 10, 20, … that is not below. */
export function nice(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= most);
}

export function short(value) {
  if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (value >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return `${+value.toPrecision(3)}`;
}

export function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export function element(tag, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
