// Draws the charts of the page, and sorts its tables. Names from files are only ever set as text.
(() => {
  "use strict";
  const MOST_TOLD = 12; // arms in a tooltip
  const MARGIN = 0.3; // epochs before the first and after the last
  const MOST_APART = 6; // arms without a button for all of them
  const content = JSON.parse(document.getElementById("data").textContent);
  const config = {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: "transparent" },
    axis: {
      labelColor: "var(--soft)", titleColor: "var(--ink)", gridColor: "var(--line)", domainColor: "var(--line)",
      tickColor: "var(--line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", gridOpacity: 0.7,
    },
    text: { fontSize: 13 },
  };

  // What the reader has chosen survives a reload, for pages that are served while jobs run.
  const memory = {
    read: (key) => { try { return JSON.parse(sessionStorage.getItem(key)) || {}; } catch { return {}; } },
    write: (key, value) => { try { sessionStorage.setItem(key, JSON.stringify(value)); } catch { /* not allowed */ } },
  };

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // Columns as rows.
  const rows = (columns) => {
    const names = Object.keys(columns);
    return (columns[names[0]] || []).map((_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]])));
  };

  // The specification with its slots filled.
  const filled = (part, slots) => {
    if (Array.isArray(part)) return part.map((each) => filled(each, slots));
    if (part === null || typeof part !== "object") return part;
    if (typeof part.slot === "string") return slots[part.slot];
    return Object.fromEntries(Object.entries(part).map(([key, value]) => [key, filled(value, slots)]));
  };

  const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))));

  // The smallest and the largest number, never the same.
  const extent = (values, logarithmic) => {
    const [low, high] = values.reduce(
      ([low, high], value) => (value === null ? [low, high] : [Math.min(low, value), Math.max(high, value)]),
      [Infinity, -Infinity],
    );
    if (low < high) return [low, high];
    if (low > high) return [1, 2];
    return logarithmic ? [low / 2, low * 2] : [low - 0.5, low + 0.5];
  };

  // The data sets and the tooltip of a chart of curves.
  const curves = (chart, state) => {
    const { x, measures } = chart.data;
    const measure = measures[state.measure];
    const shown = chart.arms.map((_, g) => g).filter((g) => !state.hidden.includes(g));
    const logarithmic = state.logarithmic.y;
    const positive = (value) => (value === null || (logarithmic && value <= 0) ? null : value);
    const values = shown.flatMap((g) => measure.mean[g]).filter((value) => value > 0);
    const floor = Math.min(...values) / 2;
    const data = { curves: [], runs: [], epochs: [] };
    const at = (g, i) => (Array.isArray(measure.n[g]) ? measure.n[g][i] : measure.n[g]);
    for (const g of shown) {
      const most = Math.max(...x.map((_, i) => at(g, i)));
      x.forEach((epoch, i) => {
        const y = positive(measure.mean[g][i]);
        const std = measure.std[g][i];
        const whole = at(g, i) === most;
        const band = y !== null && std !== null && whole && state.band;
        const low = band ? (logarithmic ? Math.max(y - std, floor) : y - std) : null;
        data.curves.push({ g, x: epoch, y, whole: whole ? y : null, low, high: band ? y + std : null });
      });
      if (state.runs && measure.runs) {
        measure.runs[g].forEach((run, r) => run.forEach((y, i) => {
          data.runs.push({ g, r: `${g}/${r}`, x: x[i], y: positive(y) });
        }));
      }
    }
    x.forEach((epoch, i) => {
      const from = i ? (epoch + x[i - 1]) / 2 : epoch - MARGIN;
      const to = i + 1 < x.length ? (epoch + x[i + 1]) / 2 : epoch + MARGIN;
      const row = { x: epoch, from, to };
      for (const g of shown) {
        const [mean, std, n] = [measure.mean[g][i], measure.std[g][i], at(g, i)];
        row[`a${g}`] = mean === null ? "–" : `${short(mean)}${std === null ? "" : ` ± ${short(std)}`}  (n = ${n})`;
      }
      data.epochs.push(row);
    });
    const tooltip = [{ field: "x", type: "quantitative", title: "epoch" }];
    for (const g of shown.slice(0, MOST_TOLD)) tooltip.push({ field: `a${g}`, type: "nominal", title: chart.arms[g].label });
    if (shown.length > MOST_TOLD) {
      const more = `${shown.length - MOST_TOLD} more: hide some arms to read them`;
      data.epochs.forEach((row) => { row.more = more; });
      tooltip.push({ field: "more", type: "nominal", title: "and" });
    }
    const drawn = [...data.curves.flatMap(({ y, low, high }) => [y, low, high]), ...data.runs.map(({ y }) => y)];
    return { data, slots: { tooltip, y_title: measure.label }, domain: { x: [x[0] - MARGIN, x[x.length - 1] + MARGIN], y: extent(drawn, logarithmic) } };
  };

  const table = (chart, state) => {
    const kept = (row) => row.g === undefined || row.g === null || !state.hidden.includes(row.g);
    const data = Object.fromEntries(Object.entries(chart.data).map(([name, part]) => [name, rows(part).filter(kept)]));
    return { data, slots: { height: 40 * (data.rows || []).length }, domain: {} };
  };

  const scale = (state, axis, domain) => {
    const zoom = state.zoom && state.zoom[axis];
    const shown = zoom || domain[axis];
    const nice = !zoom && axis === "y";
    const kind = state.logarithmic[axis] ? { type: "log" } : { type: "linear", zero: false };
    return { ...kind, nice, ...(shown ? { domain: shown } : { padding: 12 }) };
  };

  const draw = async (figure, chart, state) => {
    const { data, slots, domain } = (chart.kind === "curves" ? curves : table)(chart, state);
    const all = chart.arms.map((_, g) => g);
    const spec = filled(chart.spec, {
      colors: { domain: all, range: chart.arms.map((arm) => arm.color) },
      dashes: { domain: all, range: chart.arms.map((arm) => arm.dash || [1, 0]) },
      x: scale(state, "x", domain),
      y: scale(state, "y", domain),
      ...slots,
    });
    spec.datasets = data;
    spec.layer = spec.layer.filter((layer) => !layer.data || data[layer.data.name].length);
    const place = figure.querySelector(".chart");
    const before = figure.view;
    const options = { actions: false, renderer: "svg", ast: true, config, tooltip: { theme: "custom" } };
    const { view } = await window.vegaEmbed(place, spec, options);
    if (before) before.finalize();
    figure.view = view;
    const redraw = () => show(figure, chart, state);
    try {
      view.addSignalListener("brush", (_, value) => { figure.brush = value; });
    } catch { /* this chart does not zoom */ }
    place.onpointerup = () => setTimeout(() => {
      const found = Object.values(figure.brush || {}).filter((range) => Array.isArray(range) && range[0] !== range[1]);
      figure.brush = null;
      if (found.length !== 2) return;
      const sorted = found.map((range) => [...range].sort((a, b) => a - b));
      state.zoom = { x: sorted[0], y: sorted[1] };
      redraw();
    });
    place.ondblclick = () => { if (state.zoom) { state.zoom = null; redraw(); } };
  };

  // Draws one state after the other: a slow drawing never overtakes a later one.
  const show = (figure, chart, state) => {
    memory.write(state.key, { ...state, zoom: null });
    figure.querySelector(".unzoom").hidden = !state.zoom;
    figure.drawing = (figure.drawing || Promise.resolve())
      .then(() => draw(figure, chart, state))
      .then(() => { figure.dataset.drawn = "yes"; })
      .catch((error) => { figure.dataset.drawn = "failed"; console.error(error); });
    return figure.drawing;
  };

  const checkbox = (text, checked, change) => {
    const box = element("input", { type: "checkbox", checked });
    box.addEventListener("change", () => change(box.checked));
    return element("label", {}, box, text);
  };

  const swatch = (arm) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [key, value] of Object.entries({ width: 24, height: 8, "aria-hidden": "true" })) made.setAttribute(key, value);
    const look = { x1: 0, x2: 24, y1: 4, y2: 4, "stroke-width": 3, "stroke-dasharray": (arm.dash || [1, 0]).join(" ") };
    for (const [key, value] of Object.entries(look)) line.setAttribute(key, value);
    line.style.stroke = arm.color;
    made.append(line);
    return made;
  };

  const controls = (figure, chart, state) => {
    const redraw = () => show(figure, chart, state);
    const place = figure.querySelector(".controls");
    if (chart.kind === "curves") {
      const choice = element("select", { ariaLabel: "Measure" });
      chart.data.measures.forEach((measure, at) => choice.append(element("option", { value: at, textContent: measure.label })));
      choice.value = state.measure;
      const runs = checkbox("single runs", state.runs, (on) => { state.runs = on; redraw(); });
      const limit = () => { runs.hidden = !chart.data.measures[state.measure].runs; };
      limit();
      choice.addEventListener("change", () => { state.measure = Number(choice.value); state.zoom = null; limit(); redraw(); });
      place.append(choice, runs, checkbox("band", state.band, (on) => { state.band = on; redraw(); }));
    }
    for (const axis of Object.keys(chart.logarithmic)) {
      place.append(checkbox(`logarithmic ${axis} axis`, state.logarithmic[axis], (on) => {
        state.logarithmic[axis] = on;
        state.zoom = null;
        redraw();
      }));
    }
    const unzoom = element("button", { type: "button", className: "unzoom", textContent: "see all", hidden: true });
    unzoom.addEventListener("click", () => { state.zoom = null; redraw(); });
    place.append(unzoom);
    const chips = figure.querySelector(".arms");
    const update = () => chips.querySelectorAll("[aria-pressed]").forEach((each, at) => {
      each.setAttribute("aria-pressed", !state.hidden.includes(at));
    });
    chart.arms.forEach((arm, g) => {
      const chip = element("button", { type: "button", title: "show or hide; double-click shows it alone" }, swatch(arm), arm.label);
      chip.setAttribute("aria-pressed", "true");
      chip.addEventListener("click", () => {
        state.hidden = state.hidden.includes(g) ? state.hidden.filter((each) => each !== g) : [...state.hidden, g];
        update();
        redraw();
      });
      chip.addEventListener("dblclick", () => {
        const others = chart.arms.map((_, at) => at).filter((at) => at !== g);
        state.hidden = state.hidden.length === others.length ? [] : others;
        update();
        redraw();
      });
      chips.append(chip);
    });
    if (chart.arms.length > MOST_APART) {
      const every = element("button", { type: "button", textContent: "all or none" });
      every.addEventListener("click", () => {
        state.hidden = state.hidden.length ? [] : chart.arms.map((_, at) => at);
        update();
        redraw();
      });
      chips.append(every);
    }
    update();
  };

  const start = async () => {
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      const chart = content.charts[Number(figure.dataset.chart)];
      const key = `nteleport ${location.pathname} ${figure.dataset.chart}`;
      const state = {
        measure: 0, hidden: [], band: true, runs: false, zoom: null, ...memory.read(key), key,
      };
      state.logarithmic = { ...chart.logarithmic, ...state.logarithmic };
      if (chart.kind === "curves" && !chart.data.measures[state.measure]) state.measure = 0;
      controls(figure, chart, state);
      await show(figure, chart, state);
    }
    document.body.dataset.drawn = "yes";
  };

  const sorted = (head, at) => {
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[at];
      if (cell.dataset.key === undefined) return cell.textContent;
      return cell.dataset.key === "" ? null : Number(cell.dataset.key);
    };
    const order = (a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      const sign = down ? -1 : 1;
      return sign * (typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true }));
    };
    body.append(...[...body.rows].map((row) => ({ row, key: key(row) })).sort(order).map(({ row }) => row));
  };
  for (const head of document.querySelectorAll("th")) {
    head.firstElementChild.addEventListener("click", () => sorted(head, head.cellIndex));
  }

  // A page that is served asks whether there is a newer one.
  const refresh = () => setTimeout(async () => {
    try {
      const version = await (await fetch("version")).text();
      if (content.version === undefined) content.version = version;
      if (version !== content.version) { location.reload(); return; }
    } catch { /* the server has ended */ }
    refresh();
  }, 1000 * content.refresh);
  if (content.refresh) refresh();

  if (content.charts.length) start();
  else document.body.dataset.drawn = "yes";
})();
