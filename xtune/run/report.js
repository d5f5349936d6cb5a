for (const figure of document.querySelectorAll("figure[data-curves]")) {
  const svg = figure.querySelector("svg"), line = figure.querySelector(".pointer"), told = figure.querySelector("output");
  const { x: [first, last], curves } = JSON.parse(figure.dataset.curves);
  const [left, right] = figure.dataset.plot.split(" ").map(Number);
  const nearest = (points, step) => points.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
  svg.addEventListener("pointermove", (event) => {
    const at = (event.clientX - svg.getBoundingClientRect().left) * svg.viewBox.baseVal.width / svg.clientWidth;
    const wanted = first + Math.min(1, Math.max(0, (at - left) / (right - left))) * (last - first);
    const step = nearest(curves[0][1], wanted)[0];
    const place = left + (step - first) / (last - first) * (right - left);
    line.setAttribute("x1", place);
    line.setAttribute("x2", place);
    line.style.visibility = "visible";
    told.textContent = `step ${step}` + curves.map(([name, points]) => ` · ${name} ${nearest(points, step)[1]}`).join("");
  });
  svg.addEventListener("pointerleave", () => {
    line.style.visibility = "hidden";
    told.textContent = "";
  });
}
