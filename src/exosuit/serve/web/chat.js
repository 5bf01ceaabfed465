// One conversation at a time on the screen: asking, watching the answer grow, stopping, editing.
//
// An answer that is under way belongs to its conversation, not to the screen: looking at another
// one does not end it. Stopping closes the connection, and with it the work on the server.

import * as api from "./api.js";
import { $, copy, make, say } from "./elements.js";
import * as markdown from "./markdown.js";
import { bodyOf } from "./settings.js";
import * as store from "./store.js";

const LOADING_MS = 700;

export class Chat {
  /** `model()` is the chosen one; `refused` hears of errors, `changed` of titles and new chats. */
  constructor({ settings, model, refused, changed }) {
    Object.assign(this, { defaults: settings, model, refused, changed });
    this.running = new Map(); // conversation and AbortController by conversation id
    this.hasModels = true;
    this.prompt = $("#prompt");
    this.scroll = $("#scroll");
    this.list = $("#messages");
    this.begin();
    $("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("#stop").addEventListener("click", () => this.stop());
    this.prompt.addEventListener("input", () => this.grow());
    this.prompt.addEventListener("keydown", (event) => this.typed(event));
  }

  get id() {
    return this.conversation.id;
  }

  get settings() {
    return this.conversation.settings;
  }

  get isRunning() {
    return this.running.has(this.id);
  }

  // Conversations -----------------------------------------------------------------------------

  begin() {
    this.open(store.fresh("", this.defaults.defaults));
  }

  open(conversation) {
    this.conversation = conversation;
    this.draw(true);
  }

  /** The one that grows, if it does; else as it was kept. */
  async find(id) {
    return this.running.get(id)?.conversation ?? (await store.get(id));
  }

  async forget(id) {
    this.running.get(id)?.abort.abort();
    await store.remove(id);
    if (id === this.id) this.begin();
  }

  /** Another model for what is asked from now on. */
  chosen(model) {
    this.conversation.model = model;
    if (this.conversation.messages.length) this.keep(this.conversation);
  }

  tune(settings) {
    this.conversation.settings = settings;
    if (this.conversation.messages.length) this.keep(this.conversation);
  }

  async keep(conversation) {
    conversation.updated = Date.now();
    await store.put(conversation);
    this.changed();
  }

  // Asking ------------------------------------------------------------------------------------

  typed(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    } else if (event.key === "ArrowUp" && !this.prompt.value) {
      const last = this.conversation.messages.findLastIndex((message) => message.role === "user");
      if (last >= 0 && !this.isRunning) {
        event.preventDefault();
        this.edit(last);
      }
    }
  }

  send() {
    const content = this.prompt.value.trim();
    if (!content || this.isRunning) return;
    this.prompt.value = "";
    this.grow();
    this.ask(content);
  }

  ask(content) {
    const conversation = this.conversation;
    conversation.model = this.model();
    conversation.title ||= content.split("\n")[0].slice(0, 80);
    this.cut(conversation.messages.length);
    conversation.messages.push({ role: "user", content });
    this.answer(conversation);
  }

  /** Drop everything from a message on, and have it answered anew. */
  retry(index) {
    if (this.isRunning) return;
    this.conversation.model = this.model();
    this.conversation.messages.length = index;
    this.cut(index);
    this.answer(this.conversation);
  }

  edit(index) {
    if (this.isRunning) return;
    const message = this.conversation.messages[index];
    const area = make("textarea.editor", { value: message.content, "aria-label": "Edit your message" });
    const cancel = () => {
      this.draw();
      this.prompt.focus();
    };
    const save = () => {
      const content = area.value.trim();
      if (!content) return;
      this.conversation.messages.length = index;
      this.ask(content);
      this.prompt.focus();
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        save();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      }
    });
    const row = make(
      "div.actions.shown",
      {},
      make("button.main", { type: "button", onclick: save }, "Ask again"),
      make("button", { type: "button", onclick: cancel }, "Cancel"),
    );
    this.list.children[index].replaceChildren(area, row);
    area.style.height = `${area.scrollHeight + 2}px`;
    area.focus();
  }

  stop() {
    this.running.get(this.id)?.abort.abort();
  }

  // Answering ---------------------------------------------------------------------------------

  async answer(conversation) {
    const message = { role: "assistant", content: "", model: conversation.model };
    const body = bodyOf(conversation.model, conversation.settings, conversation.messages);
    conversation.messages.push(message);
    const abort = new AbortController();
    this.running.set(conversation.id, { conversation, abort });
    this.append();
    this.keep(conversation);
    const waiting = this.waiting(conversation, message);
    const live = { started: performance.now(), first: 0, count: 0 };
    try {
      for await (const chunk of api.chat(body, abort.signal)) {
        this.take(message, chunk, live);
        clearInterval(waiting);
        this.refresh(conversation, message);
      }
      if (!message.content && !message.thoughts) message.note = "The model said nothing.";
    } catch (problem) {
      if (problem.name === "AbortError") message.stopped = true;
      else {
        message.error = problem.message;
        this.refused(problem);
      }
    } finally {
      clearInterval(waiting);
      delete message.loading;
      this.running.delete(conversation.id);
      message.stats ??= measured(live);
      this.refresh(conversation, message);
      if (conversation === this.conversation) this.busy();
      say(message.error ?? (message.stopped ? "Stopped" : "The answer is complete"));
      await this.keep(conversation);
    }
  }

  take(message, chunk, live) {
    const delta = chunk.choices?.[0]?.delta ?? {};
    if (delta.reasoning_content) message.thoughts = (message.thoughts ?? "") + delta.reasoning_content;
    if (delta.content) message.content += delta.content;
    if (delta.content || delta.reasoning_content) {
      live.first ||= performance.now();
      live.last = performance.now();
      live.count += 1;
      message.live = measured(live);
    }
    if (chunk.choices?.[0]?.finish_reason === "length") message.note = "It reached the longest answer.";
    if (chunk.usage) message.stats = counted(chunk, live);
  }

  /** While nothing comes: is the model being loaded, and how far? */
  waiting(conversation, message) {
    return setInterval(async () => {
      try {
        const { loaded } = await api.get("/exosuit/status");
        const row = loaded.find((row) => row.name === message.model);
        if (!this.running.has(conversation.id) || message.content) return;
        message.loading =
          row && row.progress < 1
            ? `loading ${row.name}, ${Math.round(row.progress * 100)} %`
            : row?.waiting
              ? `${row.waiting} before or with you`
              : "";
        this.refresh(conversation, message);
      } catch {} // the answer itself will tell
    }, LOADING_MS);
  }

  // Drawing -----------------------------------------------------------------------------------

  /** All of it. While it grows only what is new is touched, or it would be read aloud again. */
  draw() {
    this.cut(0);
    if (this.conversation.messages.length) this.append();
    else this.list.append(this.welcome());
    this.busy();
  }

  /** No more than the first messages are shown. */
  cut(count) {
    $(".welcome", this.list)?.remove();
    while (this.list.children.length > count) this.list.lastChild.remove();
  }

  append() {
    const { messages } = this.conversation;
    for (let index = this.list.children.length; index < messages.length; index += 1) {
      this.list.append(this.article(messages[index], index));
    }
    this.busy();
    this.toEnd();
  }

  busy() {
    const isRunning = this.isRunning;
    this.list.setAttribute("aria-busy", String(isRunning));
    $("#send").hidden = isRunning;
    $("#stop").hidden = !isRunning;
  }

  welcome() {
    const text = this.hasModels
      ? "Ask something. It is answered on this machine, and stays here."
      : "There is no model here yet. Fetch one in a terminal: exosuit pull smollm2";
    return make("div.welcome", {}, make("h1", {}, "exosuit"), make("p", {}, text));
  }

  article(message, index) {
    const isUser = message.role === "user";
    const body = make("div.body");
    const article = make(
      `article.${message.role}`,
      { "aria-label": isUser ? "You" : `Answer of ${message.model}` },
      body,
      make("div.actions"),
    );
    fill(article, message, this.isRunning && index === this.conversation.messages.length - 1);
    article.lastChild.prepend(...this.actions(message, index));
    return article;
  }

  actions(message, index) {
    const button = (text, title, act) => make("button", { type: "button", title, onclick: act }, text);
    const copying = button("Copy", "Copy this message", (event) => copy(message.content, event.target));
    if (message.role === "user") {
      return [copying, button("Edit", "Change this message and ask again", () => this.edit(index))];
    }
    return [copying, button("Retry", "Answer this anew", () => this.retry(index))];
  }

  /** A message has grown. */
  refresh(conversation, message) {
    if (conversation !== this.conversation) return;
    const isNear = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < 80;
    const article = this.list.children[conversation.messages.indexOf(message)];
    if (!article || article.querySelector(".editor")) return;
    fill(article, message, this.running.has(conversation.id));
    if (isNear) this.toEnd();
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  grow() {
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${Math.min(this.prompt.scrollHeight + 2, innerHeight * 0.4)}px`;
  }
}

function fill(article, message, isGrowing) {
  const body = $(".body", article);
  if (message.role === "user") {
    body.textContent = message.content;
    return;
  }
  if (message.thoughts) {
    let thoughts = $("details", article);
    if (!thoughts) {
      thoughts = make("details", {}, make("summary", {}, "Thoughts"), make("div.thoughts"));
      body.before(thoughts);
    }
    markdown.show(thoughts.lastChild, message.thoughts);
  }
  markdown.show(body, message.content);
  article.classList.toggle("growing", isGrowing);
  let line = $(".line", article);
  if (!line) {
    line = make("span.line");
    $(".actions", article).append(line);
  }
  line.textContent = [
    message.loading,
    isGrowing ? message.live && told(message.live) : message.stats && told(message.stats),
    message.stopped && "stopped",
    message.note,
  ]
    .filter(Boolean)
    .join(" · ");
  let error = $(".error", article);
  if (message.error && !error) article.insertBefore(make("p.error", { role: "alert" }, message.error), article.lastChild);
}

/** What the page itself saw, for answers that were stopped. */
function measured({ started, first, last, count }) {
  if (!count) return undefined;
  const seconds = (last - first) / 1000;
  return {
    tokens: count,
    per_second: count > 1 && seconds > 0 ? (count - 1) / seconds : null,
    first_s: (first - started) / 1000,
  };
}

/** What the server counted. */
function counted({ usage, timings }, { started, first }) {
  return {
    tokens: usage.completion_tokens,
    per_second: timings?.predicted_per_second ?? null,
    first_s: first ? (first - started) / 1000 : null,
    prompt_tokens: usage.prompt_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

function told({ tokens, per_second, first_s }) {
  const parts = [`${tokens} tokens`];
  if (per_second) parts.push(`${per_second.toFixed(1)} tokens/s`);
  if (first_s) parts.push(`first after ${first_s.toFixed(2)} s`);
  return parts.join(" · ");
}
