"use strict";
// Each section plays all of its clips by one clock, frame by frame from the sheets of stills.
for (const section of document.querySelectorAll("section.player")) {
  const rows = [...section.querySelectorAll("figure")].map((figure) => {
    const details = figure.querySelector("details");
    details.open = false;
    const row = {
      frames: +figure.dataset.frames, fps: +figure.dataset.fps, context: +figure.dataset.context,
      panels: [],
    };
    for (const sheet of figure.querySelectorAll("img")) {
      const panel = document.createElement("div");
      panel.className = "dreamt" in sheet.dataset ? "panel dreamt" : "panel";
      const canvas = document.createElement("canvas");
      canvas.width = +sheet.dataset.width;
      canvas.height = +sheet.dataset.height;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", sheet.alt);
      const line = document.createElement("p");
      const name = document.createElement("span");
      name.textContent = sheet.dataset.name;
      const when = document.createElement("span");
      when.className = "when";
      line.append(name, when);
      panel.append(canvas, line);
      figure.querySelector(".panels").append(panel);
      row.panels.push({ panel, when, sheet, columns: +sheet.dataset.columns,
        context: canvas.getContext("2d"), shown: -1 });
      canvas.addEventListener("click", () => toggle());
      sheet.addEventListener("load", () => draw(true));
    }
    return row;
  });
  const duration = Math.max(...rows.map((row) => row.frames / row.fps));
  const step = 1 / Math.max(...rows.map((row) => row.fps));
  const longest = rows.find((row) => row.frames / row.fps === duration);

  const controls = section.querySelector(".controls");
  controls.hidden = false;
  const button = document.createElement("button");
  button.type = "button";
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: Math.round(duration / step) - 1, step: 1, value: 0 });
  slider.setAttribute("aria-label", "Frame");
  const output = document.createElement("output");
  const speed = document.createElement("select");
  speed.setAttribute("aria-label", "Speed");
  for (const [text, value] of [["¼ speed", 0.25], ["½ speed", 0.5], ["Real time", 1]]) {
    speed.add(new Option(text, value, false, value === 0.5));
  }
  const crisp = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => section.classList.toggle("crisp", box.checked));
  crisp.append(box, "Show pixels");
  controls.append(button, slider, output, speed, crisp);

  let playing = false, visible = false, time = 0, last = 0;

  function draw(force) {
    const now = Math.min(time, duration - step / 2);
    slider.value = Math.floor(now / step + 1e-6);
    const frame = Math.min(Math.floor(now * longest.fps + 1e-6), longest.frames - 1);
    output.textContent = `frame ${frame + 1} of ${longest.frames}, ${(frame / longest.fps).toFixed(1)} s`;
    for (const row of rows) {
      const index = Math.min(Math.floor(now * row.fps + 1e-6), row.frames - 1);
      for (const p of row.panels) {
        if (!force && p.shown === index) continue;
        p.shown = index;
        const { width, height } = p.context.canvas;
        const x = (index % p.columns) * (width + 2), y = Math.floor(index / p.columns) * (height + 2);
        if (p.sheet.complete && p.sheet.naturalWidth) p.context.drawImage(p.sheet, x, y, width, height, 0, 0, width, height);
        if (!row.context || !p.panel.classList.contains("dreamt")) continue;
        const dreaming = index >= row.context;
        p.panel.classList.toggle("dreaming", dreaming);
        p.when.textContent = dreaming ? `+${((index - row.context + 1) / row.fps).toFixed(1)} s` : "given";
      }
    }
  }

  function tick(stamp) {
    if (!playing || !visible) return;
    time += Math.min(0.1, (stamp - last) / 1000) * speed.value;
    last = stamp;
    if (time > duration + 0.6 * speed.value) time = 0; // rest on the last frame before starting over
    draw(false);
    requestAnimationFrame(tick);
  }

  function start() {
    last = performance.now();
    requestAnimationFrame(tick);
  }

  function toggle(on = !playing) {
    playing = on;
    button.textContent = playing ? "Pause" : "Play";
    if (playing && visible) start();
  }

  button.addEventListener("click", () => toggle());
  slider.addEventListener("input", () => {
    toggle(false);
    time = slider.value * step + step / 4;
    draw(false);
  });
  new IntersectionObserver((entries) => {
    const was = visible;
    visible = entries[entries.length - 1].isIntersecting;
    if (visible && !was && playing) start();
  }).observe(section);
  toggle(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  draw(true);
}
