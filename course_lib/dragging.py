"""A picture whose points one drags with the mouse, also where no kernel runs: SVG and JavaScript (chapter 11)."""

import json
from collections.abc import Sequence
from itertools import count

from IPython.display import HTML

NUMBERS = count()
SCRIPT = """
(function () {
const svg = document.getElementById(@ID@), Q = @POINTS@, names = @NAMES@, scale = 150, m0 = 1e-9;
let x = @TARGET@, held = null;
const at = p => [(p[0] - @LEFT@) * scale, (@TOP@ - p[1]) * scale];
const cross = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
function half(points) {
  const chain = [];
  for (const p of points) {
    while (chain.length > 1 && cross(chain[chain.length - 2], chain[chain.length - 1], p) <= 0) chain.pop();
    chain.push(p);
  }
  return chain.slice(0, -1);
}
function hull(points) {  // counter-clockwise corners, by Andrew's monotone chain
  const sorted = points.slice().sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return half(sorted).concat(half(sorted.slice().reverse()));
}
function extrapolate(corners) {  // equation 11.18 along every edge -> the negative mass, and a and b of 11.16
  let best = { m: 0 };
  corners.forEach((p, i) => {
    const q = corners[(i + 1) % corners.length], n = [q[1] - p[1], p[0] - q[0]];
    const height = y => n[0] * (y[0] - p[0]) + n[1] * (y[1] - p[1]);
    const far = corners.reduce((u, v) => (height(v) < height(u) ? v : u)), width = -height(far);
    const beyond = height(x) / width, behind = -1 - beyond;
    if (beyond > best.m) best = { m: beyond, b: far, a: [0, 1].map(k => (x[k] + beyond * far[k]) / (1 + beyond)) };
    if (behind > best.m) best = { m: behind, a: far, b: [0, 1].map(k => ((1 + behind) * far[k] - x[k]) / behind) };
  });
  return best;
}
function shape(corners, style) {
  return `<polygon points="${corners.map(p => at(p).join(",")).join(" ")}" style="${style}"/>`;
}
function dot(p, r, style, extra) {
  const c = at(p);
  return `<circle cx="${c[0]}" cy="${c[1]}" r="${r}" style="${style}" ${extra || ""}/>`;
}
function word(p, text, dx, dy, style) {
  const c = at(p), look = "font:13px sans-serif;pointer-events:none;" + (style || "");
  return `<text x="${c[0] + dx}" y="${c[1] + dy}" style="${look}">${text}</text>`;
}
function draw() {
  const corners = hull(Q), found = extrapolate(corners), rings = [0.5, 0.4, 0.3, 0.2, 0.1];
  const colours = ["#e31a1c", "#fc6a32", "#fd9b43", "#fec561", "#fff0a9"];
  let out = rings.map((m, i) => shape(hull(Q.flatMap(p => Q.map(q => [0, 1].map(k => (1 + m) * p[k] - m * q[k])))),
    `fill:${colours[i]};stroke:white`)).join("") + shape(corners, "fill:white;stroke:black;stroke-width:1.5");
  if (found.m > m0) {
    const [a, b, e] = [found.a, found.b, x].map(at);
    out += `<line x1="${b[0]}" y1="${b[1]}" x2="${a[0]}" y2="${a[1]}" style="stroke:black;stroke-dasharray:5 4"/>`
      + `<line x1="${a[0]}" y1="${a[1]}" x2="${e[0]}" y2="${e[1]}" style="stroke:black;stroke-width:2.5"/>`;
  }
  Q.forEach((p, i) => {
    out += dot(p, 8, "fill:#2f6f9f;cursor:grab", `data-point="${i}"`) + word(p, names[i], 9, -7);
  });
  for (const [name, p] of found.m > m0 ? [["a", found.a], ["b", found.b]] : []) {
    out += dot(p, 5, "fill:white;stroke:black;pointer-events:none") + word(p, name, -15, 15, "font-style:italic");
  }
  out += dot(x, 10, "fill:black;stroke:white;stroke-width:2;cursor:grab", 'data-point="x"');
  const told = found.m > m0 ? `outside: negative mass ${found.m.toFixed(3)}` : "inside: no negative weight needed";
  const l1 = (1 + 2 * found.m).toFixed(3);
  out += `<text x="12" y="24" style="font:bold 15px sans-serif;fill:white">smallest ℓ1 = ${l1}</text>`
    + `<text x="12" y="44" style="font:13px sans-serif;fill:white">${told}</text>`;
  svg.innerHTML = out;
}
svg.addEventListener("pointerdown", event => {
  held = event.target.getAttribute("data-point");
  if (held !== null) { svg.setPointerCapture(event.pointerId); event.preventDefault(); }
});
svg.addEventListener("pointermove", event => {
  if (held === null) return;
  const box = svg.getBoundingClientRect(), ratio = @WIDTH@ / box.width;
  const p = [@LEFT@ + (event.clientX - box.left) * ratio / scale, @TOP@ - (event.clientY - box.top) * ratio / scale];
  if (held === "x") x = p; else Q[+held] = p;
  draw();
});
for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { held = null; });
draw();
})();
"""


def drag_hull(points: dict[str, Sequence[float]], target: Sequence[float], margin: float = 0.7) -> HTML:
    """Named points in the plane, their hull, and around it the rings of equal smallest ℓ1: 1.2, 1.4, ..., 2.0. Black is
    the target. Any of them can be dragged. ValueError for fewer than three points, or points on one line."""
    places = [tuple(map(float, place)) for place in points.values()]
    (ax, ay), *others = places if len(places) > 2 else [(0.0, 0.0)]
    bx, by = max(others, key=lambda p: (p[0] - ax) ** 2 + (p[1] - ay) ** 2, default=(ax, ay))
    if not any(abs((bx - ax) * (y - ay) - (by - ay) * (x - ax)) > 1e-9 for x, y in others):
        raise ValueError("the points have no area between them: give three or more that are not on one line")
    low, high = ([choose(p[axis] for p in [*places, target]) for axis in (0, 1)] for choose in (min, max))
    left, top = low[0] - margin, high[1] + margin
    width, height = (150 * (high[axis] - low[axis] + 2 * margin) for axis in (0, 1))
    identifier = f"hull-{next(NUMBERS)}"
    words = {"POINTS": places, "NAMES": list(points), "TARGET": [float(value) for value in target]}
    words |= {"ID": identifier, "LEFT": left, "TOP": top, "WIDTH": round(width)}
    script = SCRIPT
    for name, value in words.items():
        script = script.replace(f"@{name}@", json.dumps(value))
    style = "max-width:100%;touch-action:none;user-select:none;background:#b10026"
    svg = f'<svg id="{identifier}" width="{width:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" style="{style}"></svg>'
    return HTML(f"{svg}<script>{script}</script>")
