"use strict";
// What is looked at stands in the address, so that it can be sent to somebody: #text=web&status=failed&sort=hosts.4.down
const form = document.getElementById("filter");
const text = document.getElementById("text");
const status = document.getElementById("status");
const shown = document.getElementById("shown");
const state = new URLSearchParams(location.hash.slice(1));
// So many rows of a table are in the document at once. The rest is text.
const PART = 100;

function remember(name, value) {
  if (value) state.set(name, value);
  else state.delete(name);
  history.replaceState(null, "", "#" + state);
}

const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

// What a reader sees of a row's or a cell's markup.
function plain(markup) {
  const words = markup.replace(/<[^>]*>/g, " ");
  if (!words.includes("&")) return words;
  return words.replace(/&(?:#(\d+)|(\w+));/g, (all, number, name) => number ? String.fromCodePoint(number) : NAMED[name] ?? all);
}

// A text by which web9 is before web10.
function natural(words) {
  return words.trim().toLowerCase().replace(/\d+/g, (digits) => {
    const number = digits.replace(/^0+(?=\d)/, "");
    return String.fromCharCode(48 + Math.min(number.length, 60000)) + number;
  });
}

function button(label, click) {
  const made = document.createElement("button");
  made.type = "button";
  made.append(...label);
  made.addEventListener("click", click);
  return made;
}

class Table {
  constructor(id) {
    const place = document.querySelector(`[aria-labelledby="${id}-title"] noscript`);
    const source = place.textContent;
    const start = source.indexOf("<tbody>\n") + "<tbody>\n".length;
    this.rows = source.slice(start, source.lastIndexOf("</tbody>")).split("\n").filter(Boolean);
    const holder = place.parentElement;
    holder.innerHTML = source.slice(0, start) + "</tbody></table>";
    this.element = holder.firstElementChild;
    this.body = this.element.tBodies[0];
    this.heads = [...this.element.tHead.rows[0].cells];
    this.orders = new Map();
    this.order = this.rows.map((_, index) => index);
    this.shown = this.order;
    this.first = 0;
    this.heads.forEach((head, column) => head.replaceChildren(button([head.textContent], () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      this.sort(column, down);
      remember("sort", `${id}.${column}.${down ? "down" : "up"}`);
    })));
    this.pager(id, holder);
  }

  pager(id, holder) {
    this.nav = document.createElement("nav");
    this.nav.setAttribute("aria-label", `Parts of the table of ${id}`);
    this.range = document.createElement("output");
    this.back = button(["Previous"], () => this.show(this.first - PART));
    this.on = button(["Next"], () => this.show(this.first + PART));
    this.nav.append(this.back, this.range, this.on);
    holder.after(this.nav);
  }

  // The rows' texts, made once.
  get texts() {
    return this.made ??= this.rows.map((row) => plain(row).toLowerCase());
  }

  filter(words, wanted) {
    const mark = `class="status ${wanted}"`;
    const narrow = words.length > 0 || wanted;
    this.shown = !narrow ? this.order : this.order.filter((index) =>
      words.every((word) => this.texts[index].includes(word)) && (!wanted || this.rows[index].includes(mark)));
    this.show(0);
  }

  // The rows' numbers in the order of a column, made once.
  by(column) {
    if (!this.orders.has(column)) {
      const keys = this.rows.map((row) => {
        let at = -1;
        for (let cell = 0; cell <= column; cell += 1) at = row.indexOf("<td", at + 1);
        return natural(plain(row.slice(at, row.indexOf("</td>", at))));
      });
      const compare = (a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b);
      this.orders.set(column, this.rows.map((_, index) => index).sort(compare));
    }
    return this.orders.get(column);
  }

  sort(column, down) {
    const there = new Set(this.shown);
    this.order = down ? [...this.by(column)].reverse() : this.by(column);
    this.shown = this.order.filter((index) => there.has(index));
    this.heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.show(0);
  }

  // Puts one part of the rows into the document; all of them for paper.
  show(first, count = PART) {
    this.first = Math.max(0, Math.min(first, this.shown.length - 1));
    const part = this.shown.slice(this.first, this.first + count);
    this.body.innerHTML = part.map((index) => this.rows[index]).join("\n");
    this.nav.hidden = this.shown.length <= PART;
    this.range.textContent = `${this.first + 1} to ${this.first + part.length} of ${this.shown.length}`;
    this.back.disabled = this.first === 0;
    this.on.disabled = this.first + part.length >= this.shown.length;
  }
}

const tables = Object.fromEntries(["shares", "hosts", "findings"].map((id) => [id, new Table(id)]));

function filter() {
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const counts = [tables.shares, tables.hosts].map((table) => {
    table.filter(words, status.value);
    return `${table.shown.length} of ${table.rows.length}`;
  });
  shown.textContent = `${counts[0]} shares, ${counts[1]} hosts`;
}

// A tile shows what it counts.
for (const tile of document.querySelectorAll(".tiles li[class]")) {
  if (![...status.options].some((option) => option.text === tile.className)) continue;
  tile.append(button([...tile.childNodes], () => {
    status.value = tile.className;
    status.dispatchEvent(new Event("change"));
  }));
}
form.addEventListener("submit", (event) => event.preventDefault());
text.addEventListener("input", () => { filter(); remember("text", text.value); });
status.addEventListener("change", () => { filter(); remember("status", status.value); });
addEventListener("beforeprint", () => Object.values(tables).forEach((table) => table.show(0, Infinity)));
addEventListener("afterprint", () => Object.values(tables).forEach((table) => table.show(0)));

form.hidden = false;
text.value = state.get("text") ?? "";
status.value = state.get("status") ?? "";
filter();
const [id, column, way] = (state.get("sort") ?? "").split(".");
const sorted = Object.hasOwn(tables, id) ? tables[id] : null;
if (sorted?.heads[column]) sorted.sort(Number(column), way === "down");
tables.findings.show(0);
// So that the first key finds the texts made.
setTimeout(() => [tables.shares, tables.hosts].forEach((table) => table.texts), 0);
