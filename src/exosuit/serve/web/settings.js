// The system prompt and how tokens are drawn: what is set goes with every request of a chat.

import { $ } from "./elements.js";
import * as kept from "./kept.js";

const NUMBERS = ["temperature", "max_tokens", "top_p", "top_k", "min_p", "repeat_penalty", "seed"];

export class Settings {
  /** `defaults` are those of new chats: the last that were saved. */
  constructor(dialog) {
    this.dialog = dialog;
    this.form = $("form", dialog);
    this.defaults = JSON.parse(kept.get("settings") ?? "{}");
    $("#settings-reset").addEventListener("click", () => this.fill({}));
  }

  fill(settings) {
    for (const name of ["system", ...NUMBERS]) this.form.elements[name].value = settings[name] ?? "";
  }

  /** Ask; the chat and new ones have what was saved. */
  edit(chat) {
    if (this.dialog.open) return;
    this.fill(chat.settings);
    this.dialog.returnValue = "cancel";
    this.dialog.addEventListener(
      "close",
      () => {
        if (this.dialog.returnValue === "save") this.save(chat);
      },
      { once: true },
    );
    this.dialog.showModal();
  }

  save(chat) {
    const found = {};
    const system = this.form.elements.system.value.trim();
    if (system) found.system = system;
    for (const name of NUMBERS) {
      const value = this.form.elements[name].value;
      if (value !== "") found[name] = Number(value);
    }
    this.defaults = found;
    kept.set("settings", JSON.stringify(found));
    chat.tune(found);
  }
}

/** The body of a request, without its messages' growth: model, settings, what was said so far. */
export function bodyOf(model, settings, messages) {
  const { system, ...drawing } = settings;
  const said = messages
    .filter((message) => message.content && !message.error)
    .map(({ role, content }) => ({ role, content }));
  return { model, ...drawing, messages: system ? [{ role: "system", content: system }, ...said] : said };
}
