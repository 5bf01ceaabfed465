// The second view: what the server does, with what, and how fast; asked once a second while looked at.

import * as api from "./api.js";
import { bytes, duration, make, say } from "./elements.js";

const EVERY_MS = 1000;
const SAMPLES = 60;

export class Status {
  /** `told` hears of every status. */
  constructor(element, { told }) {
    this.element = element;
    this.told = told;
    this.rates = [];
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.watch(!element.hidden));
  }

  watch(on) {
    clearTimeout(this.timer);
    this.timer = null;
    if (on && !document.hidden) this.look();
  }

  async look() {
    clearTimeout(this.timer);
    try {
      const found = await api.get("/exosuit/status");
      this.told(found);
      this.rates = [...this.rates, found.tokens_per_second].slice(-SAMPLES);
      this.draw(found);
    } catch (problem) {
      this.element.replaceChildren(make("p.error", { role: "alert" }, problem.message));
    }
    if (!this.element.hidden && !document.hidden) {
      this.timer = setTimeout(() => this.look(), EVERY_MS);
    }
  }

  draw(found) {
    const focused = document.activeElement?.dataset?.unload; // it is drawn anew under the finger
    this.element.replaceChildren(
      make("h1", {}, "Server"),
      this.glance(found),
      section("Devices", found.devices.map(device)),
      section(
        "Loaded models",
        found.loaded.map((row) => this.loaded(row)),
        "None. A model is loaded when it is first asked, and unloaded when nobody has asked for a while.",
      ),
      section("Doctor", found.findings.map(finding), "Nothing to complain about."),
      section("Store", [store(found)], ""),
      make("p.quiet", {}, `exosuit ${found.version}, up for ${duration(found.uptime_s)}`),
    );
    if (focused) this.element.querySelector(`[data-unload="${CSS.escape(focused)}"]`)?.focus();
  }

  glance(found) {
    return make(
      "div.tiles",
      {},
      make(
        "div.tile.wide",
        {},
        make("span.figure", {}, found.tokens_per_second.toFixed(1)),
        make("span.quiet", {}, "tokens/s, all answers together"),
        spark(this.rates),
      ),
      tile(found.prefill_per_second.toFixed(0), "prompt tokens/s"),
      tile(found.active, found.draining ? "answering; draining" : "answering"),
      tile(found.waiting, "waiting"),
      tile(found.requests_total, "requests so far"),
    );
  }

  loaded(row) {
    const isLoading = row.progress < 1;
    const unload = make(
      "button",
      { "data-unload": row.name, disabled: isLoading, onclick: () => this.unload(row.name) },
      "Unload",
    );
    const left = row.expires_at && row.expires_at - Date.now() / 1000;
    return make(
      "div.card",
      {},
      make("div.row", {}, make("strong", {}, row.name), make("span.grow"), unload),
      isLoading
        ? bar(row.progress, `loading, ${Math.round(row.progress * 100)} %`)
        : make(
            "p.quiet",
            {},
            [
              `${bytes(row.device_bytes)} on ${row.device}`,
              `context ${row.context}`,
              `${row.active} answering, ${row.waiting} waiting, ${row.parallel} at a time`,
              left > 0 ? `unloads in ${duration(left)}` : row.active ? "" : "stays",
            ]
              .filter(Boolean)
              .join(" · "),
          ),
    );
  }

  async unload(model) {
    try {
      await api.post("/exosuit/unload", { model });
      say(`${model} is unloaded`);
    } catch (problem) {
      say(problem.message);
    }
    this.look();
  }
}

function section(title, cards, otherwise) {
  return make("section", {}, make("h2", {}, title), ...(cards.length ? cards : [make("p.quiet", {}, otherwise)]));
}

function tile(figure, text) {
  return make("div.tile", {}, make("span.figure", {}, String(figure)), make("span.quiet", {}, text));
}

function device(row) {
  const share = row.memory_bytes ? row.used_bytes / row.memory_bytes : 0;
  const link = Object.entries(row.link);
  return make(
    "div.card",
    {},
    make("div.row", {}, make("strong", {}, row.name), make(`span.state.${row.state}`, {}, row.state)),
    row.memory_bytes
      ? bar(share, `${bytes(row.used_bytes)} of ${bytes(row.memory_bytes)} in use by models`)
      : make("p.quiet", {}, "opened when it is needed"),
    row.target ? make("p.quiet", {}, row.target) : null,
    link.length
      ? make("p.quiet", {}, "link: " + link.map(([name, n]) => `${name} ${n.toLocaleString()}`).join(" · "))
      : null,
    row.why ? make("p.error", {}, row.why) : null,
  );
}

function finding(row) {
  return make(
    "div.card",
    {},
    make("div.row", {}, make(`span.state.${row.status}`, {}, row.status), make("strong", {}, row.name)),
    make("p", {}, row.found),
    row.cause ? make("p.quiet", {}, row.cause) : null,
    row.next ? make("p", {}, "Next: ", make("code", {}, row.next)) : null,
  );
}

function store({ models, default_model }) {
  if (!models.length) return make("p.quiet", {}, "Empty. Fetch a model in a terminal: exosuit pull smollm2");
  const row = (model) =>
    make(
      "tr",
      {},
      make("td", {}, model.name, model.name === default_model ? make("span.quiet", {}, " (default)") : null),
      make("td", {}, bytes(model.size_bytes)),
      make("td", {}, model.family),
      make("td", {}, model.quantisation),
      make("td", {}, model.context ? model.context.toLocaleString() : "?"),
      make("td", {}, model.capabilities.join(", ")),
    );
  const head = ["name", "size", "family", "stored as", "context", "can"];
  return make(
    "div.table",
    {},
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", {}, text)))),
      make("tbody", {}, ...models.map(row)),
    ),
  );
}

function bar(share, text) {
  const filled = make("span.filled");
  filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return make("div", {}, make("div.meter", { "aria-hidden": "true" }, filled), make("p.quiet", {}, text));
}

/** A rate since the view was opened, at most a minute of it, as a line. */
function spark(values) {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${Math.max(values.length - 1, 1)} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  const most = Math.max(...values, 1);
  const line = document.createElementNS(NS, "polyline");
  const place = (value, k) => `${k},${(19 - (value / most) * 18).toFixed(1)}`;
  line.setAttribute("points", values.map(place).join(" "));
  svg.append(line);
  return svg;
}
