// Markdown to elements, made for answers that grow: only the block at the end is drawn anew.
//
// Text becomes text nodes and nothing else. Links lead to http, https and mailto only; images are
// shown as links, because looking at one would tell its server that it was looked at.

import { copy, make } from "./elements.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+/;
const ROW = /^\s*\|?(.+?)\|?\s*$/;
const DASHES = /^\s*\|?(\s*:?-+:?\s*\|)+\s*:?-*:?\s*\|?\s*$/;

/** Show `text` in `element`, keeping what has not changed since the last call. */
export function show(element, text) {
  const blocks = split(text);
  const before = element.blocks ?? [];
  let same = 0;
  while (same < blocks.length && same < before.length && blocks[same] === before[same]) same += 1;
  while (element.childNodes.length > same) element.lastChild.remove();
  for (const block of blocks.slice(same)) element.append(draw(block));
  element.blocks = blocks;
}

/** The sources of the top-level blocks. */
function split(text) {
  const blocks = [];
  let lines = [];
  let fence = null;
  const close = () => {
    if (lines.some((line) => line.trim())) blocks.push(lines.join("\n"));
    lines = [];
  };
  for (const line of text.replace(/\r\n?/g, "\n").split("\n")) {
    if (fence) {
      lines.push(line);
      if (line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "")) {
        fence = null;
        close();
      }
      continue;
    }
    const found = FENCE.exec(line);
    const inItem = lines.length && ITEM.test(lines[0]);
    if (found && !(inItem && /^\s/.test(line))) {
      close();
      fence = found[1];
      lines.push(line);
    } else if (!line.trim()) {
      if (inItem) lines.push(line);
      else close();
    } else {
      const goesOn = inItem && (ITEM.test(line) || /^\s/.test(line) || lines.at(-1).trim());
      if (inItem && !goesOn) close();
      if (HEADING.test(line) || (RULE.test(line) && !ITEM.test(line.trim() + " x"))) {
        close();
        lines.push(line);
        close();
      } else {
        if (!inItem && ITEM.test(line) && lines.length && !QUOTE.test(lines[0])) close();
        lines.push(line);
      }
    }
  }
  close();
  return blocks;
}

function draw(source) {
  const lines = source.split("\n");
  const fence = FENCE.exec(lines[0]);
  if (fence) return code(lines, fence);
  const heading = HEADING.exec(lines[0]);
  if (heading) return make(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2]));
  if (RULE.test(lines[0]) && lines.length === 1) return make("hr");
  if (QUOTE.test(lines[0])) {
    const quote = make("blockquote");
    show(quote, lines.map((line) => line.replace(QUOTE, "")).join("\n"));
    return quote;
  }
  if (ITEM.test(lines[0])) return list(lines);
  if (lines.length > 1 && lines[0].includes("|") && DASHES.test(lines[1])) return table(lines);
  return make("p", {}, ...inline(source));
}

function code(lines, [, mark, language]) {
  const isClosed = lines.length > 1 && lines.at(-1).trim().startsWith(mark);
  const text = lines.slice(1, isClosed ? -1 : undefined).join("\n");
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", () => copy(text, button));
  return make(
    "div.code",
    {},
    make("div.code-head", {}, make("span", {}, language || "text"), button),
    make("pre", { tabIndex: 0 }, make("code", {}, ...coloured(text))),
  );
}

function list(lines) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const isOrdered = /\d/.test(mark);
  const element = make(isOrdered ? "ol" : "ul");
  if (isOrdered) element.start = parseInt(mark, 10);
  const items = [];
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= indent.length) items.push([line.slice(found[0].length)]);
    else items.at(-1).push(line);
  }
  for (const [first, ...rest] of items) {
    const depth = Math.min(...rest.filter((l) => l.trim()).map((l) => /^ */.exec(l)[0].length), 8);
    const item = make("li");
    show(item, [first, ...rest.map((line) => line.slice(Math.min(depth, line.length)))].join("\n"));
    const only = item.firstChild; // a tight item is its text, not a paragraph
    if (only?.tagName === "P") only.replaceWith(...only.childNodes);
    element.append(item);
  }
  return element;
}

function table(lines) {
  const cells = (line) => ROW.exec(line)?.[1].split(/(?<!\\)\|/).map((cell) => cell.trim()) ?? [];
  const head = make("tr", {}, ...cells(lines[0]).map((text) => make("th", {}, ...inline(text))));
  const rows = lines
    .slice(2)
    .map((line) => make("tr", {}, ...cells(line).map((text) => make("td", {}, ...inline(text)))));
  return make("div.table", {}, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

const INLINE = new RegExp(
  [
    String.raw`(?<escaped>\\[\\\`*_{}[\]()#+.!|~>-])`,
    String.raw`(?<ticks>\`+)(?<code>[\s\S]*?[^\`])\k<ticks>(?!\`)`,
    String.raw`(?<image>!?)\[(?<label>[^\]]*)\]\((?<target>[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)`,
    String.raw`\*\*(?<bold>\S(?:[\s\S]*?\S)?)\*\*(?!\*)`,
    String.raw`(?<![\w_])__(?<bold2>\S(?:[\s\S]*?\S)?)__(?!\w)`,
    String.raw`\*(?<it>[^\s*](?:[^*]*[^\s*])?)\*`,
    String.raw`(?<!\w)_(?<it2>[^\s_](?:[^_]*[^\s_])?)_(?!\w)`,
    String.raw`~~(?<gone>\S(?:[\s\S]*?\S)?)~~`,
    String.raw`(?<bare>https?:\/\/[^\s<>()"']+[^\s<>()"'.,;:!?])`,
    String.raw`(?<br>  \n)`,
  ].join("|"),
);

/** The nodes of a stretch of text. */
function inline(text) {
  const nodes = [];
  for (;;) {
    const found = INLINE.exec(text);
    if (!found) break;
    if (found.index) nodes.push(text.slice(0, found.index));
    nodes.push(mark(found));
    text = text.slice(found.index + found[0].length);
  }
  if (text) nodes.push(text);
  return nodes;
}

function mark({ 0: whole, groups: found }) {
  if (found.escaped) return found.escaped[1];
  if (found.code) return make("code", {}, found.code.replace(/^ (.*) $/, "$1"));
  if (found.label !== undefined) return link(found.target, found.label || found.target, whole);
  if (found.bold ?? found.bold2) return make("strong", {}, ...inline(found.bold ?? found.bold2));
  if (found.it ?? found.it2) return make("em", {}, ...inline(found.it ?? found.it2));
  if (found.gone) return make("del", {}, ...inline(found.gone));
  if (found.bare) return link(found.bare, found.bare, whole);
  return make("br");
}

function link(target, label, whole) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return whole;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return whole;
  return make("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, label);
}

// Enough colour to find one's way, of any language: comments, strings, numbers, common keywords.
const TOKENS = new RegExp(
  [
    String.raw`(?<comment>\/\*[\s\S]*?\*\/|\/\/[^\n]*|(?<=^|\s)#(?![\w[{])[^\n]*|(?<=^|\s)--\s[^\n]*)`,
    String.raw`(?<string>"""[\s\S]*?"""|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\`(?:[^\`\\]|\\.)*\`)`,
    String.raw`(?<number>\b\d[\w.]*\b)`,
    String.raw`\b(?<word>and|as|async|await|break|case|catch|class|const|continue|def|del|do|elif|else|enum|except|export|extends|false|False|finally|fn|for|from|func|function|if|impl|import|in|interface|is|lambda|let|match|mod|mut|namespace|new|nil|None|not|null|or|package|pass|private|pub|public|raise|return|select|self|static|struct|super|switch|this|throw|trait|true|True|try|type|typeof|undefined|use|var|void|where|while|with|yield)\b`,
  ].join("|"),
  "gm",
);

function coloured(text) {
  if (text.length > 20000) return [text];
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(TOKENS)) {
    const kind = Object.keys(found.groups).find((name) => found.groups[name] !== undefined);
    if (found.index > end) nodes.push(text.slice(end, found.index));
    nodes.push(make(`span.${kind}`, {}, found[0]));
    end = found.index + found[0].length;
  }
  nodes.push(text.slice(end));
  return nodes;
}
