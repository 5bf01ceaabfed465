// Puts the page together: which view, which model and device, the theme, the keyboard.

import * as api from "./api.js";
import { Chat } from "./chat.js";
import { $, make, say } from "./elements.js";
import * as kept from "./kept.js";
import { Settings } from "./settings.js";
import { Status } from "./status.js";
import * as store from "./store.js";

const settings = new Settings($("#settings"));
const chat = new Chat({ settings, model: () => $("#model").value, refused, changed: listed });
const status = new Status($("#status"), { told });

// Views -------------------------------------------------------------------------------------------

function view() {
  const isStatus = location.hash === "#status";
  $("#chat").hidden = isStatus;
  $("#status").hidden = !isStatus;
  for (const [id, on] of [["#to-chat", !isStatus], ["#to-status", isStatus]]) {
    if (on) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  document.title = isStatus ? "Server · exosuit" : "exosuit";
  drawer(false);
  status.watch(isStatus);
  if (!isStatus && matchMedia("(hover: hover)").matches) $("#prompt").focus();
}

function drawer(open) {
  document.body.classList.toggle("open", open);
  $("#shade").hidden = !open;
  $("#menu").setAttribute("aria-expanded", String(open));
}

// Models and devices ------------------------------------------------------------------------------

/** A status has come: offer what there is, keep what was chosen. */
function told(found) {
  const models = found.models.filter((model) => model.capabilities.includes("completion"));
  const picker = $("#model");
  const names = models.map((model) => model.name);
  if (names.join() !== [...picker.options].map((option) => option.value).join()) {
    const chosen = picker.value || kept.get("model") || found.default_model;
    picker.replaceChildren(...models.map((m) => make("option", { value: m.name }, m.name)));
    if (names.includes(chosen)) picker.value = chosen;
  }
  chat.hasModels = names.length > 0;
  const places = $("#device");
  const devices = found.devices.filter((device) => device.state !== "lost").map((d) => d.name);
  if (devices.join() !== [...places.options].map((option) => option.value).join()) {
    places.replaceChildren(...devices.map((name) => make("option", { value: name }, name)));
  }
  places.disabled = devices.length < 2;
  const loaded = found.loaded.find((row) => row.name === picker.value);
  if (loaded?.device && document.activeElement !== places) places.value = loaded.device;
}

async function refresh() {
  try {
    told(await api.get("/exosuit/status"));
  } catch (problem) {
    refused(problem);
  }
}

/** An error that the page can do something about; the others are shown where they happened. */
function refused(problem) {
  if (problem.status === 401 && !$("#key").open) $("#key").showModal();
  else if (problem.status === 0) say(problem.message);
}

$("#key").addEventListener("close", () => {
  const input = $("#key input");
  if (input.value) kept.set("key", input.value);
  input.value = "";
  refresh();
});

$("#model").addEventListener("change", () => {
  kept.set("model", $("#model").value);
  chat.chosen($("#model").value);
  refresh();
});

$("#device").addEventListener("change", async () => {
  const [model, device] = [$("#model").value, $("#device").value];
  try {
    await api.post("/exosuit/place", { model, device });
    say(`${model} will be loaded on ${device}`);
  } catch (problem) {
    say(problem.message);
    refused(problem);
  }
});

// Conversations -----------------------------------------------------------------------------------

async function listed() {
  const conversations = await store.all();
  $("#conversations").replaceChildren(
    ...conversations.map((conversation) => {
      const isOpen = conversation.id === chat.id;
      const name = conversation.title || "New chat";
      return make(
        "li",
        {},
        make(
          "button.item.name",
          { title: name, onclick: () => open(conversation), ...(isOpen && { "aria-current": "true" }) },
          name,
        ),
        make(
          "button.icon.delete",
          { title: `Delete “${name}”`, "aria-label": `Delete “${name}”`, onclick: () => forget(conversation) },
          "×",
        ),
      );
    }),
  );
}

async function open({ id }) {
  const conversation = await chat.find(id);
  if (!conversation) return listed(); // another tab has deleted it
  chat.open(conversation);
  const picker = $("#model");
  if ([...picker.options].some((option) => option.value === conversation.model)) {
    picker.value = conversation.model;
  }
  location.hash = "#chat";
  drawer(false);
  listed();
}

async function forget(conversation) {
  if (!confirm(`Delete “${conversation.title || "New chat"}”? It is kept nowhere else.`)) return;
  await chat.forget(conversation.id);
  await listed();
}

function begin() {
  chat.begin();
  location.hash = "#chat";
  drawer(false);
  listed();
  $("#prompt").focus();
}

async function exportAll() {
  const text = JSON.stringify({ exosuit: 1, conversations: await store.all() }, null, 2);
  const link = make("a", {
    href: URL.createObjectURL(new Blob([text], { type: "application/json" })),
    download: `exosuit-conversations-${new Date().toISOString().slice(0, 10)}.json`,
  });
  link.click();
  URL.revokeObjectURL(link.href);
}

// Theme -------------------------------------------------------------------------------------------

function theme(chosen) {
  kept.set("theme", chosen || null);
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  $("#theme").textContent = `Theme: ${chosen || "system"}`;
}

const THEMES = ["", "light", "dark"];
$("#theme").addEventListener("click", () => {
  theme(THEMES[(THEMES.indexOf(kept.get("theme") ?? "") + 1) % THEMES.length]);
});

// All together ------------------------------------------------------------------------------------

const KEYS = {
  KeyN: begin,
  Digit1: () => (location.hash = "#chat"),
  Digit2: () => (location.hash = "#status"),
  KeyP: () => settings.edit(chat),
};

document.addEventListener("keydown", (event) => {
  if (event.altKey && !event.ctrlKey && !event.metaKey && KEYS[event.code]) {
    event.preventDefault();
    KEYS[event.code]();
  } else if (event.key === "Escape" && !$("dialog[open]")) {
    if (document.body.classList.contains("open")) drawer(false);
    else chat.stop();
  }
});

$("#new").addEventListener("click", begin);
$("#export").addEventListener("click", exportAll);
$("#menu").addEventListener("click", () => drawer(!document.body.classList.contains("open")));
$("#shade").addEventListener("click", () => drawer(false));
$("#tune").addEventListener("click", () => settings.edit(chat));
addEventListener("hashchange", view);

theme(kept.get("theme") ?? "");
await refresh();
await listed();
view();
