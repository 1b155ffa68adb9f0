// Curves of a report, drawn as SVG. All text from the data goes in as text nodes, never as HTML.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const state = { metric: data.metrics[0].name, log: false, hidden: new Set() };
  const plots = [];
  const tip = document.getElementById("tip");
  const said = document.getElementById("said");
  const MARGIN = { left: 52, right: 14, top: 12, bottom: 40 };
  const REACH = 28; // pixels from the pointer to the point it means

  function make(tag, attributes = {}, ...children) {
    const namespace = ["svg", "g", "path", "line", "text", "circle"].includes(tag)
      ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const node = document.createElementNS(namespace, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // --- how a codec looks: eight colors, seven markers

  const color = (codec) => `var(--c${codec % 8})`;
  const star = (r, spikes, inner) => {
    const corners = [];
    for (let i = 0; i < 2 * spikes; i++) {
      const radius = i % 2 ? r * inner : r, angle = (Math.PI * i) / spikes - Math.PI / 2;
      corners.push(`${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`);
    }
    return `M${corners.join("L")}Z`;
  };
  const MARKERS = [
    (r) => `M${-r} 0A${r} ${r} 0 1 1 ${r} 0A${r} ${r} 0 1 1 ${-r} 0Z`,
    (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
    (r) => `M0 ${-1.25 * r}L${1.15 * r} ${r}H${-1.15 * r}Z`,
    (r) => `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0Z`,
    (r) => `M0 ${1.25 * r}L${1.15 * r} ${-r}H${-1.15 * r}Z`,
    (r) => star(1.5 * r, 4, 0.5),
    (r) => `M${-r / 2.4} ${-1.2 * r}h${r / 1.2}v${r / 1.28}h${r / 1.28}v${r / 1.2}h${-r / 1.28}v${r / 1.28}h${-r / 1.2}v${-r / 1.28}h${-r / 1.28}v${-r / 1.2}h${r / 1.28}Z`,
  ];
  const marker = (codec, r) => MARKERS[codec % MARKERS.length](r);
  const dash = (codec) => (data.codecs[codec].published ? "6 4" : "none");

  // --- axes

  function ticks(low, high, count, whole = false) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    if (whole) step = Math.max(1, Math.round(step));
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
      found.push([i * step, (i * step).toFixed(decimals)]);
    }
    return found;
  }

  function logTicks(low, high, count) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const digit of [1, 2, 3, 5, 7]) {
        const value = digit * 10 ** power;
        if (value >= low && value <= high) found.push([value, String(Number(value.toPrecision(1))), digit]);
      }
    }
    for (const wanted of [[1, 2, 3, 5, 7], [1, 2, 5], [1]]) {
      const kept = found.filter((tick) => wanted.includes(tick[2]));
      if (kept.length <= count || wanted.length === 1) return kept.length ? kept : found;
    }
  }

  // --- a plot; series(): [{codec, points: [{x, y, text, marked}]}], thin: lines without markers

  class Plot {
    constructor(card, { label, xTitle, yTitle, series, isRate, height, thin }) {
      Object.assign(this, { card, label, xTitle, yTitle, series, isRate, height, thin });
      this.body = make("div", { class: "plot" });
      card.append(this.body);
      this.at = null;
      plots.push(this);
      new ResizeObserver(() => {
        if (this.body.clientWidth && this.body.clientWidth !== this.width) this.draw();
      }).observe(this.body);
    }

    draw() {
      this.width = this.body.clientWidth || 480;
      this.at = null;
      tip.hidden = true;
      this.shown = this.series().filter((s) => !state.hidden.has(s.codec) && s.points.length);
      this.body.replaceChildren();
      const all = this.shown.flatMap((s) => s.points);
      if (!all.length) {
        this.body.append(make("p", { class: "empty" }, "No curve is shown here."));
        return;
      }
      const height = this.height || Math.round(Math.min(380, Math.max(270, this.width * 0.62)));
      const right = this.width - MARGIN.right, bottom = height - MARGIN.bottom;
      const log = this.isRate && state.log;
      const xs = all.map((p) => p.x), ys = all.map((p) => p.y);
      let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
      if (log) [x0, x1] = [x0 / 1.12, x1 * 1.12];
      else if (this.isRate) [x0, x1] = [0, x1 * 1.04 || 1];
      else if (x0 === x1) x1 = x0 + 1;
      const pad = (y1 - y0) * 0.06 || Math.abs(y1) * 0.01 || 1;
      [y0, y1] = [y0 - pad, y1 + pad];
      const scale = (v, a, b) => (log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a));
      this.x = (v) => MARGIN.left + scale(v, x0, x1) * (right - MARGIN.left);
      this.y = (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - MARGIN.top);

      const svg = make("svg", {
        viewBox: `0 0 ${this.width} ${height}`, tabindex: "0", role: "group",
        "aria-roledescription": "plot", "aria-label": `${this.label()}: ${this.shown.length} curves; arrow keys go through the points`,
      });
      const count = Math.max(3, Math.round(this.width / 85));
      const xTicks = log ? logTicks(x0, x1, count + 2) : ticks(x0, x1, count, !this.isRate);
      for (const [value, text] of xTicks) {
        const x = this.x(value);
        svg.append(make("line", { class: "grid", x1: x, x2: x, y1: MARGIN.top, y2: bottom }),
          make("text", { x, y: bottom + 16, "text-anchor": "middle" }, text));
      }
      for (const [value, text] of ticks(y0, y1, 6)) {
        const y = this.y(value);
        svg.append(make("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y, y2: y }),
          make("text", { x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, text));
      }
      svg.append(
        make("path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}` }),
        make("text", { x: (MARGIN.left + right) / 2, y: height - 6, "text-anchor": "middle" },
          this.xTitle + (log ? " (logarithmic)" : "")),
        make("text", { transform: `translate(12 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, this.yTitle()));
      for (const { codec, points } of this.shown) {
        const line = points.map((p) => `${this.x(p.x).toFixed(2)} ${this.y(p.y).toFixed(2)}`).join("L");
        const group = make("g", { class: "series", "data-codec": codec });
        group.append(make("path", { class: "curve", d: `M${line}`, stroke: color(codec), "stroke-dasharray": dash(codec),
          "stroke-width": this.thin ? 1.4 : 2 }));
        for (const p of points) {
          if (this.thin && !p.marked) continue;
          group.append(make("path", { class: "point", d: marker(codec, this.thin ? 3 : 4.5), fill: color(codec),
            transform: `translate(${this.x(p.x).toFixed(2)} ${this.y(p.y).toFixed(2)})` }));
        }
        svg.append(group);
      }
      this.ring = make("circle", { class: "ring", r: 8, visibility: "hidden" });
      svg.append(this.ring);
      svg.addEventListener("pointermove", (event) => this.nearest(event));
      svg.addEventListener("pointerdown", (event) => this.nearest(event));
      svg.addEventListener("pointerleave", () => this.leave());
      svg.addEventListener("blur", () => this.leave());
      svg.addEventListener("keydown", (event) => this.key(event));
      this.svg = svg;
      this.body.append(svg);
    }

    nearest(event) {
      const box = this.svg.getBoundingClientRect(), zoom = this.width / box.width;
      const px = (event.clientX - box.left) * zoom, py = (event.clientY - box.top) * zoom;
      let best = null, least = REACH;
      this.shown.forEach(({ points }, s) => points.forEach((p, i) => {
        const away = Math.hypot(this.x(p.x) - px, this.y(p.y) - py);
        if (away < least) [best, least] = [{ s, i }, away];
      }));
      if (best) this.show(best); else this.leave();
    }

    key(event) {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
      if (event.key === "Escape") this.leave();
      if (!step) return;
      event.preventDefault();
      let at = { s: 0, i: 0 };
      if (this.at) {
        const s = (this.at.s + step[0] + this.shown.length) % this.shown.length;
        at = { s, i: Math.min(Math.max(this.at.i + step[1], 0), this.shown[s].points.length - 1) };
      }
      said.textContent = this.show(at);
    }

    show(at) {
      this.at = at;
      const { codec, points } = this.shown[at.s], point = points[at.i];
      const x = this.x(point.x), y = this.y(point.y), box = this.svg.getBoundingClientRect();
      this.ring.setAttribute("cx", x);
      this.ring.setAttribute("cy", y);
      this.ring.setAttribute("visibility", "visible");
      const text = `${data.codecs[codec].name}\n${point.text}`;
      showTip(text, box.left + (x * box.width) / this.width, box.top + (y * box.width) / this.width);
      return text;
    }

    leave() {
      this.at = null;
      tip.hidden = true;
      this.ring?.setAttribute("visibility", "hidden");
    }
  }

  function showTip(text, x, y) {
    tip.textContent = text;
    tip.hidden = false;
    const left = Math.min(Math.max(8, x + 14), document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = y - tip.offsetHeight - 12;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : y + 16}px`;
  }

  // --- rate-distortion plots

  const title = () => data.metrics.find((m) => m.name === state.metric).title;
  const digits = () => (title().includes("dB") ? 3 : 5);
  const named = (label) => (label === null ? "" : `label ${label}, `);

  function select(label, options, changed) {
    const list = make("select", { "aria-label": label });
    options.forEach(([value, text]) => list.append(make("option", { value }, text)));
    list.addEventListener("change", () => changed(list.value));
    return list;
  }

  for (const set of data.sets) {
    let view = set.views[0];
    const card = make("article", { class: "card", "data-set": set.name });
    const head = make("header", {}, make("h3", {}, set.title));
    card.append(head);
    document.getElementById("rd").append(card);
    const plot = new Plot(card, {
      label: () => `${set.title}, ${view.title}, ${title()}`, xTitle: "bits per pixel", yTitle: title, isRate: true,
      series: () => view.curves[state.metric].map((points, codec) => ({
        codec,
        points: (points || []).map(([x, y, label, index]) => ({
          x, y, text: `${named(label)}rate index ${index}\n${x.toFixed(4)} bpp\n${y.toFixed(digits())} ${title()}`,
        })),
      })),
    });
    const views = set.views.map((v, i) => [i, v.title]);
    head.append(select(`What ${set.name} shows`, views, (i) => { view = set.views[i]; plot.draw(); }));
  }

  // --- quality per frame

  if (data.frames.length) {
    let view = data.frames[0], rate = String(view.rates[0]);
    const card = make("article", { class: "card" }), head = make("header"), rates = make("span");
    card.append(head);
    document.getElementById("drift").append(card);
    const plot = new Plot(card, {
      label: () => `${view.set}, ${view.sequence}, rate index ${rate}, ${title()} by frame`, xTitle: "frame",
      yTitle: title, height: 340, thin: true,
      series: () => (view.curves[state.metric] || []).map((found, codec) => {
        const line = (found || []).find((f) => String(f.index) === rate);
        return {
          codec,
          points: line ? line.values.map((y, i) => ({
            x: i, y, marked: line.types[i] === "I",
            text: `frame ${i} (${line.types[i]}): ${y.toFixed(digits())} ${title()}\n${named(line.label)}sequence ${line.bpp.toFixed(4)} bpp`,
          })) : [],
        };
      }),
    });
    const offer = () => {
      if (!view.rates.map(String).includes(rate)) rate = String(view.rates[0]);
      const list = select("Rate index", view.rates.map((r) => [r, `rate index ${r}`]), (r) => { rate = r; plot.draw(); });
      list.value = rate;
      rates.replaceChildren(list);
    };
    head.append(select("Sequence", data.frames.map((v, i) => [i, `${v.set} / ${v.sequence}`]), (i) => {
      view = data.frames[i];
      offer();
      plot.draw();
    }), rates);
    offer();
  }

  // --- what all plots and tables show

  const drawAll = () => plots.forEach((plot) => plot.draw());

  data.codecs.forEach((codec, number) => {
    const swatch = make("svg", { width: 30, height: 14, "aria-hidden": "true" },
      make("path", { class: "curve", d: "M1 7H29", stroke: color(number), "stroke-dasharray": dash(number) }),
      make("path", { d: marker(number, 4.5), fill: color(number), transform: "translate(15 7)" }));
    const button = make("button", { type: "button", "aria-pressed": "true", "data-codec": number }, swatch, codec.name);
    button.addEventListener("click", () => {
      if (!state.hidden.delete(number)) state.hidden.add(number);
      button.setAttribute("aria-pressed", String(!state.hidden.has(number)));
      drawAll();
    });
    document.getElementById("legend").append(button);
  });

  function showMetric(metric) {
    state.metric = metric;
    document.querySelectorAll("[data-metric]").forEach((part) => { part.hidden = part.dataset.metric !== metric; });
    drawAll();
  }
  document.getElementById("metric").addEventListener("change", (event) => showMetric(event.target.value));

  const axes = document.querySelectorAll("[data-axis]");
  axes.forEach((button) => button.addEventListener("click", () => {
    state.log = button.dataset.axis === "log";
    axes.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    drawAll();
  }));

  const hint = (event) => {
    const cell = event.target.closest?.("[data-tip]");
    if (!cell) return;
    const box = cell.getBoundingClientRect();
    showTip(cell.dataset.tip, box.left, box.top);
  };
  document.addEventListener("pointerover", hint);
  document.addEventListener("focusin", hint);
  for (const gone of ["pointerout", "focusout"]) {
    document.addEventListener(gone, (event) => {
      if (event.target.closest?.("[data-tip]")) tip.hidden = true;
    });
  }
  document.addEventListener("scroll", () => { tip.hidden = true; }, true);
  showMetric(document.getElementById("metric").value || state.metric);
})();
