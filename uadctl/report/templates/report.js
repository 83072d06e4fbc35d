"use strict";
// The galleries of a page: sorting, filtering, layers, a viewer, and thresholds to try. Nothing is loaded or stored but
// the choice of light or dark, for as long as the window is open. Without this script the page shows the same pictures.

(() => {
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  // make("button", {type: "button"}, "text", child): texts are texts, never markup.
  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function draw(name, attributes = {}) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  // ---- light and dark

  // A browser may refuse storage to a page from a file: then the choice holds for this page alone.
  function kept(value) {
    try {
      if (value !== undefined) sessionStorage.setItem("uadctl-theme", value);
      return sessionStorage.getItem("uadctl-theme");
    } catch {
      return null;
    }
  }

  function startTheme() {
    const button = $("#theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
    const tell = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
    const before = kept();
    if (before === "dark" || before === "light") document.documentElement.dataset.theme = before;
    button.addEventListener("click", () => {
      const wanted = isDark() ? "light" : "dark";
      document.documentElement.dataset.theme = wanted;
      kept(wanted);
      tell();
    });
    system.addEventListener("change", tell);
    tell();
  }

  // ---- layers: one choice for the whole page, with controls beside the galleries and in the viewer

  // Each with its name, and a short one for narrow windows.
  const LAYERS = [["image", "image", "image"], ["heat", "heat map", "heat"], ["truth", "ground truth", "truth"],
    ["found", "at or above threshold", "found"]];

  function layerControls(place) {
    const root = document.documentElement;
    for (const [layer, said, short] of LAYERS) {
      const box = make("input", {type: "checkbox", "data-layer": layer});
      box.checked = !root.classList.contains(`no-${layer}`);
      box.addEventListener("change", () => {
        root.classList.toggle(`no-${layer}`, !box.checked);
        for (const other of $$(`[data-layer="${layer}"]`)) other.checked = box.checked;
      });
      place.append(make("label", {}, box, make("span", {class: "long"}, said), make("span", {class: "short"}, short)));
    }
    const range = make("input", {type: "range", min: "0", max: "100", step: "5", "data-opacity": "",
      "aria-label": "heat map opacity"});
    range.value = "65";
    range.addEventListener("input", () => {
      root.style.setProperty("--heat", String(range.value / 100));
      for (const other of $$("[data-opacity]")) other.value = range.value;
    });
    place.append(make("label", {}, make("span", {class: "long"}, "heat map opacity"), range));
  }

  // ---- numbers as text, as the page's own

  // Exactly half way, toFixed goes up, Python to the even digit. Only odd multiples of 1 / 2^(digits + 1) lie there.
  function fixed(value, digits) {
    const text = value.toFixed(digits);
    const half = Math.abs(value * 2 ** (digits + 1)) % 2 === 1;
    return half && Number(text.at(-1)) % 2 ? (Number(text) - 10 ** -digits).toFixed(digits) : text;
  }

  function percent(share) {
    let text = fixed(100 * share, 1);
    if ((text === "0.0" && share > 0) || (text === "100.0" && share < 1)) {
      text = fixed(100 * share, Math.min(20, -Math.floor(Math.log10(100 * Math.min(share, 1 - share)))));
    }
    return `${text}\u00a0%`;
  }

  // A threshold with all the digits of a float32.
  const exact = (value) => String(Number(value.toPrecision(9)));

  // Of any number of values; Math.min takes only so many.
  function ends(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }

  // ---- one gallery

  class Gallery {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      this.shots = $$(".shot", root);
      this.list = $(".pictures", root);
      this.threshold = data.threshold;
      this.review = data.review;
      this.sort = "telling";
      this.startWhatIf();
      this.startFilters();
      this.judge();
    }

    // Whether the run's own thresholds hold.
    own() {
      return this.threshold === this.data.threshold && this.review === this.data.review;
    }

    // The run's own verdict, until another threshold is tried. The rule: anomalous if and only if score >= threshold.
    verdict(index) {
      if (this.own()) return this.data.verdicts[index];
      const score = this.data.scores[index];
      if (score >= this.threshold) return "anomaly";
      return this.review !== null && score >= this.review ? "review" : "good";
    }

    outcome(index) {
      const verdict = this.verdict(index);
      if (verdict === null) return "no verdict";
      const label = this.data.labels[index];
      if (label === 1 && verdict !== "anomaly") return verdict === "review" ? "missed, for review" : "missed";
      return label === 0 && verdict === "anomaly" ? "false alarm" : verdict;
    }

    counts() {
      const n = {tp: 0, fp: 0, fn: 0, tn: 0, review: 0};
      this.data.labels.forEach((label, index) => {
        const verdict = this.verdict(index);
        if (label < 0 || verdict === null) return;
        n[verdict === "anomaly" ? (label ? "tp" : "fp") : label ? "fn" : "tn"] += 1;
        if (verdict === "review") n.review += 1;
      });
      return n;
    }

    // ---- thresholds to try

    startWhatIf() {
      const {scores, threshold, review, fixed} = this.data;
      const box = $(".whatif", this.root);
      if (threshold === null || fixed || scores.length === 0) return;
      const [low, high] = ends([...scores, threshold, review ?? threshold]);
      const room = (high - low) * 0.03 || Math.abs(high) * 0.03 || 1;
      this.low = low - room;
      this.high = high + room;
      const place = $(".sliders", box);
      place.append(this.rug());
      this.controls = [this.slider("threshold", "threshold", "Threshold", threshold)];
      if (review !== null) this.controls.push(this.slider("review", "review", "Review threshold", review));
      for (const control of this.controls) place.append(control.element);
      const reset = make("button", {type: "button", class: "reset"}, "Back to the run's own");
      reset.addEventListener("click", () => {
        for (const control of this.controls) control.set(control.own);
        this.judge();
      });
      place.append(reset);
      this.reset = reset;
      box.hidden = false;
    }

    at(value) {
      return 100 * (value - this.low) / (this.high - this.low);
    }

    // Every score as a stroke: defects above, normal images below, on the axis of the sliders.
    rug() {
      const svg = draw("svg", {class: "rug", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img"});
      svg.setAttribute("aria-label", "Each score as a stroke: defects above, normal images below");
      for (const [label, name, top] of [[1, "defect", 2], [0, "normal", 22]]) {
        const strokes = this.data.scores.filter((_, i) => this.data.labels[i] === label);
        svg.append(draw("path", {class: name, d: strokes.map((s) => `M${this.at(s).toFixed(3)} ${top}v16`).join("")}));
      }
      this.lines = {};
      for (const name of this.data.review === null ? ["threshold"] : ["threshold", "review"]) {
        this.lines[name] = draw("path", {class: `at ${name}`});
        svg.append(this.lines[name]);
      }
      return make("div", {class: "rugs"}, svg,
        make("small", {class: "muted"}, "Each stroke is an image: above defects, below, dashed, normal ones."));
    }

    slider(name, css, said, own) {
      const id = `${this.data.unit}-${name}`;
      const range = make("input", {type: "range", min: this.low, max: this.high, step: "any", id: `${id}-range`,
        class: css, "aria-label": `${said}, try another`});
      const number = make("input", {type: "number", step: "any", id, class: css, inputmode: "decimal"});
      const tick = make("span", {class: "tick", title: `the run's own: ${own}`});
      // Half a thumb at either end is not travelled by its middle.
      tick.style.left = `calc(.5rem + (100% - 1rem) * ${this.at(own) / 100})`;
      const set = (value) => {
        this[name] = value;
        number.value = String(value);
        range.value = String(value);
        range.setAttribute("aria-valuetext", String(value));
      };
      range.addEventListener("input", () => {
        set(Number(range.value));
        this.judge();
      });
      // The number counts with all its digits; the slider follows as far as it goes.
      number.addEventListener("input", () => {
        const value = number.valueAsNumber;
        if (!Number.isFinite(value)) return;
        this[name] = value;
        range.value = String(value);
        range.setAttribute("aria-valuetext", String(value));
        this.judge();
      });
      for (const input of [range, number]) input.addEventListener("change", () => this.settle(name));
      const element = make("div", {class: "slider"},
        make("div", {class: "row"}, make("label", {for: id}, said), number, make("span", {class: "muted"}, `the run's own: ${own}`)),
        make("div", {class: "track"}, tick, range));
      set(own);
      return {name, own, set, number, range, element};
    }

    // The review threshold never lies above the other: the one that was not moved gives way, but not before the other
    // has been let go, or typed to its end. Until then a review threshold above counts as if it lay on the other.
    settle(name) {
      const value = this[name];
      const crossed = this.review !== null && this.review > this.threshold;
      for (const control of this.controls) if (control.name === name || crossed) control.set(value);
      this.judge();
    }

    recount() {
      const place = $(".recount", this.root);
      if (!this.controls) return;
      const n = this.counts();
      const part = (k, of, what) => `${k} of ${of} ${what}${of ? ` (${percent(k / of)})` : ""}`;
      const said = [
        `${part(n.fn, n.tp + n.fn, "defect images missed")}, ${part(n.fp, n.fp + n.tn, "normal images called anomalous")}.`,
        `TP\u00a0${n.tp}, FP\u00a0${n.fp}, FN\u00a0${n.fn}, TN\u00a0${n.tn}.`,
      ];
      if (this.review !== null) said.push(`For review: ${n.review}.`);
      const own = this.own();
      said.unshift(own ? "At the run's own threshold:" : "With this threshold:");
      place.textContent = said.join(" ");
      for (const name of ["tp", "fp", "fn", "tn", "review"]) place.dataset[name] = n[name];
      this.reset.disabled = own;
      for (const [name, line] of Object.entries(this.lines)) line.setAttribute("d", `M${this.at(this[name]).toFixed(3)} 0v40`);
    }

    // ---- sorting and filtering

    startFilters() {
      const place = $(".filters", this.root);
      const choice = (name, said, options) => {
        const select = make("select", {class: `by-${name}`});
        for (const [value, text] of options) select.append(make("option", {value}, text));
        select.addEventListener("change", () => this.show());
        place.append(make("label", {}, said, select));
        return select;
      };
      const judged = this.data.threshold !== null;
      this.sorting = choice("sort", "Sort by", [
        ["telling", "most telling first"], ["high", "score, highest first"], ["low", "score, lowest first"],
        ...(judged ? [["near", "distance to the threshold"]] : []), ["name", "name"],
      ]);
      if (judged) {
        this.byVerdict = choice("verdict", "Verdict", [["", "all"], ["anomaly", "anomaly"],
          ...(this.data.review !== null || this.data.fixed ? [["review", "review"]] : []), ["good", "good"]]);
        this.byError = choice("error", "Right or wrong", [["", "all"], ["missed", "missed"], ["alarm", "false alarms"],
          ["wrong", "missed or false alarm"], ["right", "right"]]);
      }
      const kinds = [...new Set(this.data.labels.map((label, i) => this.kind(i)))].sort();
      this.byKind = choice("kind", "Shows", [["", "all"], ...kinds.map((kind) => [`=${kind}`, kind])]);
      this.text = make("input", {type: "search", class: "by-text", placeholder: "part of a name"});
      this.text.addEventListener("input", () => this.show());
      place.append(make("label", {}, "Name", this.text));
      const clear = make("button", {type: "button", class: "clear"}, "Show all");
      clear.addEventListener("click", () => {
        for (const select of $$("select", place)) select.selectedIndex = 0;
        this.text.value = "";
        this.show();
      });
      this.shownCount = make("output", {class: "count", "aria-live": "polite"});
      place.append(clear, this.shownCount);
      place.hidden = this.shots.length === 0;
    }

    kind(index) {
      const label = this.data.labels[index];
      return label === 0 ? "normal" : label < 0 ? "unknown" : `defect: ${this.data.defects[index]}`;
    }

    error(index) {
      const outcome = this.outcome(index);
      if (outcome.startsWith("missed")) return "missed";
      if (outcome === "false alarm") return "alarm";
      return this.data.labels[index] < 0 || outcome === "no verdict" ? "" : "right";
    }

    fits(index) {
      const error = this.error(index), wanted = this.byError?.value ?? "";
      return (!this.byVerdict?.value || this.verdict(index) === this.byVerdict.value)
        && (!wanted || error === wanted || (wanted === "wrong" && (error === "missed" || error === "alarm")))
        && (!this.byKind.value || `=${this.kind(index)}` === this.byKind.value)
        && this.data.names[index].toLowerCase().includes(this.text.value.trim().toLowerCase());
    }

    compare() {
      const {scores, names} = this.data;
      const named = (a, b) => (names[a] < names[b] ? -1 : names[a] > names[b] ? 1 : a - b);
      return {
        telling: (a, b) => a - b,
        high: (a, b) => scores[b] - scores[a] || named(a, b),
        low: (a, b) => scores[a] - scores[b] || named(a, b),
        near: (a, b) => Math.abs(scores[a] - this.threshold) - Math.abs(scores[b] - this.threshold) || named(a, b),
        name: named,
      }[this.sorting.value];
    }

    judge() {
      for (const shot of this.shots) {
        const outcome = this.outcome(Number(shot.dataset.index));
        const place = $(".outcome", shot);
        if (place.dataset.outcome !== outcome) {
          place.textContent = outcome;
          place.dataset.outcome = outcome;
          const image = $("img.image", shot);
          if (image) image.alt = image.alt.slice(0, image.alt.lastIndexOf("; ") + 2) + outcome;
        }
      }
      this.recount();
      this.show();
    }

    show() {
      const order = this.compare();
      const sorted = [...this.shots].sort((a, b) => order(Number(a.dataset.index), Number(b.dataset.index)));
      this.visible = sorted.filter((shot) => this.fits(Number(shot.dataset.index)));
      for (const shot of this.shots) shot.hidden = true;
      for (const shot of this.visible) shot.hidden = false;
      if (sorted.some((shot, i) => this.list.children[i] !== shot)) this.list.append(...sorted);
      // What it says is true of the page as it came.
      $(".order", this.root).hidden = !this.own() || this.sorting.value !== "telling" || this.visible.length < sorted.length;
      this.shownCount.textContent = `Shown: ${this.visible.length} of ${this.shots.length}`;
    }
  }

  // ---- the viewer: one picture large, with all others of its gallery in the order shown

  class Viewer {
    constructor(dialog) {
      this.dialog = dialog;
      this.stage = $(".stage", dialog);
      this.sheet = $(".sheet", dialog);
      this.pointers = new Map();
      layerControls($(".layers", dialog));
      const acts = {close: () => dialog.close(), previous: () => this.step(-1), next: () => this.step(1),
        in: () => this.zoomBy(1.5), out: () => this.zoomBy(1 / 1.5), fit: () => this.fit()};
      for (const button of $$("[data-act]", dialog)) button.addEventListener("click", acts[button.dataset.act]);
      dialog.addEventListener("keydown", (event) => this.key(event));
      dialog.addEventListener("close", () => {
        this.sheet.replaceChildren();
        const frame = this.shots?.[this.place] && $(".frame", this.shots[this.place]);
        frame?.focus();
      });
      this.stage.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.clientX, event.clientY);
      }, {passive: false});
      this.stage.addEventListener("pointerdown", (event) => {
        this.stage.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      });
      this.stage.addEventListener("pointermove", (event) => this.drag(event));
      for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
        this.stage.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
      }
      this.stage.addEventListener("dragstart", (event) => event.preventDefault());
      addEventListener("resize", () => { if (dialog.open) this.fit(); });
    }

    // gallery: whose threshold is told; undefined where the shots are of none.
    open(shots, place, gallery) {
      this.shots = shots;
      this.place = place;
      this.gallery = gallery;
      this.size = null;
      this.dialog.showModal();
      this.load();
      this.stage.focus();
    }

    load() {
      const shot = this.shots[this.place];
      const stack = $(".stack", shot).cloneNode(true);
      this.sheet.replaceChildren(stack);
      $("h2", this.dialog).textContent = $(".name", shot).textContent;
      $(".told", this.dialog).textContent = this.told(shot);
      $(".place", this.dialog).textContent = `${this.place + 1} of ${this.shots.length}`;
      $("[data-act=previous]", this.dialog).disabled = this.place === 0;
      $("[data-act=next]", this.dialog).disabled = this.place === this.shots.length - 1;
      for (const kind of ["full", "original"]) {
        const link = $(`a.${kind}`, this.dialog);
        link.hidden = !shot.dataset[kind];
        link.href = shot.dataset[kind] || "#";
      }
      const image = $("img", $(".stack", shot));
      const [width, height] = stack.classList.contains("drawn") ? [image.naturalWidth || 1, image.naturalHeight || 1]
        : stack.style.getPropertyValue("--ratio").split("/").map(Number);
      if (!image.complete) image.addEventListener("load", () => { if (stack.isConnected) this.load(); }, {once: true});
      this.ratio = width / height;
      // The same place of the next part, where pictures have the same size.
      const size = `${width}x${height}`;
      if (size === this.size) this.lay();
      else this.fit();
      this.size = size;
    }

    told(shot) {
      const unit = shot.closest(".unit")?.querySelector("h2");
      const threshold = this.gallery?.threshold ?? null;
      const judged = threshold === null ? "" : `, threshold ${exact(threshold)}${this.gallery.own() ? "" : " (tried)"}`;
      const said = `${$(".truth-said", shot).textContent}${judged}: ${$(".outcome", shot).textContent}`;
      return unit ? `${unit.textContent}: ${said}` : said;
    }

    step(by) {
      const to = this.place + by;
      if (to < 0 || to >= this.shots.length) return;
      this.place = to;
      this.load();
    }

    fit() {
      const {clientWidth: w, clientHeight: h} = this.stage;
      this.zoom = 1;
      this.width = Math.min(w, h * this.ratio);
      this.x = (w - this.width) / 2;
      this.y = (h - this.width / this.ratio) / 2;
      this.lay();
    }

    // clientX, clientY: the point that stays where it is; the middle if not given.
    zoomBy(factor, clientX, clientY) {
      const box = this.stage.getBoundingClientRect();
      const px = (clientX ?? box.left + box.width / 2) - box.left, py = (clientY ?? box.top + box.height / 2) - box.top;
      const zoom = Math.min(40, Math.max(1, this.zoom * factor));
      const by = zoom / this.zoom;
      this.x = px - (px - this.x) * by;
      this.y = py - (py - this.y) * by;
      this.zoom = zoom;
      if (zoom === 1) this.fit();
      else this.lay();
    }

    move(dx, dy) {
      this.x += dx;
      this.y += dy;
      this.lay();
    }

    // The sheet is laid out larger, not scaled: contours stay lines of the same width. It never leaves the stage.
    lay() {
      const w = this.width * this.zoom, h = w / this.ratio;
      const {clientWidth, clientHeight} = this.stage;
      const within = (at, size, room) => (size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at)));
      this.x = within(this.x, w, clientWidth);
      this.y = within(this.y, h, clientHeight);
      Object.assign(this.sheet.style, {width: `${w}px`, height: `${h}px`, left: `${this.x}px`, top: `${this.y}px`});
      this.stage.dataset.zoom = this.zoom.toFixed(3);
    }

    drag(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY];
      if (this.pointers.size === 2) {
        const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
        const far = ([x, y]) => Math.hypot(x - other[0], y - other[1]) || 1;
        this.zoomBy(far(now) / far(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
        this.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      } else this.move(now[0] - before[0], now[1] - before[1]);
      this.pointers.set(event.pointerId, now);
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      // What is typed, or moves a slider, is the control's own; a box of a layer takes no key but Space.
      if (event.target.matches('input:not([type="checkbox"])')) return;
      const pan = {ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60]}[event.key];
      const act = event.shiftKey && pan ? () => this.move(...pan)
        : {ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1), "+": () => this.zoomBy(1.5),
          "=": () => this.zoomBy(1.5), "-": () => this.zoomBy(1 / 1.5), "0": () => this.fit()}[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    }
  }

  // ---- the page

  // On paper nothing can be opened: the facts are.
  function startPrint() {
    let closed = [];
    addEventListener("beforeprint", () => {
      closed = $$("details.facts:not([open])");
      for (const one of closed) one.open = true;
    });
    addEventListener("afterprint", () => {
      for (const one of closed) one.open = false;
    });
  }

  function start() {
    startTheme();
    const found = JSON.parse($("#galleries").textContent);
    const galleries = new Map();
    for (const data of Array.isArray(found) ? found : []) {
      const root = $(`.gallery[data-unit="${data.unit}"]`);
      if (!root) continue;
      try {
        galleries.set(root, new Gallery(root, data));
      } catch (error) {
        // This one stays as it is without script; the others go on.
        console.error(error);
        for (const place of $$(".scripted", root)) place.hidden = true;
        for (const shot of $$(".shot", root)) shot.hidden = false;
      }
    }
    if ($("#tools .layers")) layerControls($("#tools .layers"));
    for (const place of $$("#theme, #tools")) place.hidden = false;
    const viewer = new Viewer($("#viewer"));
    document.addEventListener("click", (event) => {
      const frame = event.target.closest?.("a.frame");
      // With a key held or another button, the link does what links do.
      if (!frame || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      const root = frame.closest(".gallery");
      const gallery = galleries.get(root);
      const all = gallery?.visible ?? $$(".shot:not([hidden])", root ?? document);
      const shots = all.filter((shot) => $(".frame", shot));
      viewer.open(shots, shots.indexOf(frame.closest(".shot")), gallery);
    });
    startPrint();
  }

  start();
})();
