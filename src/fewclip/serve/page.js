"use strict";
const $ = (id) => document.getElementById(id);
const SHOWN = 6;
let token = "", known = [], fresh = [], image = null, turn = 0, address = "";

const same = (name) => name.replaceAll("_", " ").normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean).join(" ");

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try { answer = await fetch(path, { ...options, headers }); } catch { throw new Error("The server does not respond."); }
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    $("token-form").hidden = false;
    $("token").focus();
  }
  if (!answer.ok) throw new Error(body.error || `The server responded with status ${answer.status}.`);
  return body;
}

async function loadClasses() {
  try {
    const c = await ask("classes");
    known = [...c.trained.map((name) => ({ name, kind: "trained" })), ...c.added.map((name) => ({ name, kind: "added" }))];
    const names = new Set(known.map((k) => same(k.name)));
    fresh = fresh.filter((name) => !names.has(same(name)));
    const count = `${c.trained.length} ${c.trained.length === 1 ? "class" : "classes"}`;
    $("model").textContent = `A frozen CLIP (${c.backbone}), adapted by ${c.method} to ${count}` +
      (c.takes_new ? "; it recognises others from their names." : ".");
    $("add").hidden = !c.takes_new;
    document.querySelector(".key.new").hidden = !c.takes_new;
    document.querySelector(".key.added").hidden = !c.added.length;
    $("token-form").hidden = true;
    $("error").textContent = "";
    showChips();
  } catch (error) { $("error").textContent = error.message; }
}

function showChips() {
  const chips = known.map(({ name, kind }) => {
    const chip = make("li", name, kind);
    chip.title = kind;
    return chip;
  });
  for (const name of fresh) {
    const chip = make("li", name, "new"), remove = make("button", "×");
    chip.title = "new";
    remove.type = "button";
    remove.setAttribute("aria-label", `Remove ${name}`);
    remove.onclick = () => { fresh = fresh.filter((other) => other !== name); showChips(); predict(); };
    chip.append(remove);
    chips.unshift(chip);
  }
  $("chips").replaceChildren(...chips);
}

async function predict() {
  if (!image) return;
  const request = ++turn, form = new FormData();
  form.append("images", image, image.name || "pasted image");
  const count = known.length + fresh.length;
  form.append("top", String(fresh.length ? count : SHOWN));
  if (fresh.length) for (const name of [...known.map((k) => k.name), ...fresh]) form.append("classes", name);
  $("answer").classList.add("waiting");
  $("error").textContent = "";
  const started = performance.now();
  try {
    const { predictions: [prediction] } = await ask("predict", { method: "POST", body: form });
    if (request !== turn) return; // another image was chosen meanwhile
    const shown = prediction.classes.map((c, place) => ({ ...c, place })).filter((c) => c.place < SHOWN || c.kind === "new");
    $("answer").replaceChildren(...shown.map(bar));
    $("seconds").textContent = `Among ${count} classes, in ${Math.round(performance.now() - started)} ms.`;
  } catch (error) {
    if (request !== turn) return;
    $("answer").replaceChildren();
    $("seconds").textContent = "";
    $("error").textContent = error.message;
  }
  $("empty").hidden = true;
  $("answer").classList.remove("waiting");
}

function bar({ name, probability, kind, place }) {
  const line = make("div", undefined, "line"), track = make("div", undefined, "bar"), fill = make("i", undefined, kind);
  const percent = 100 * probability;
  fill.style.width = `${percent}%`;
  track.append(fill);
  line.append(make("span", name, "name"), make("span", place < SHOWN ? kind : `${kind}, rank ${place + 1}`, "kind"), make("span", `${percent.toFixed(1)} %`, "share"));
  const item = make("li");
  item.append(line, track);
  return item;
}

function take(file) {
  if (!file) return;
  image = file;
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(file);
  const preview = $("preview");
  preview.onerror = () => { preview.hidden = true; $("invite").hidden = false; };
  preview.src = address;
  preview.alt = file.name || "the image";
  preview.hidden = false;
  $("invite").hidden = true;
  $("drop").classList.add("full");
  $("file-name").textContent = file.name || "Pasted image";
  predict();
}

$("file").onchange = (event) => { take(event.target.files[0]); event.target.value = ""; };
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}
addEventListener("paste", (event) => take(event.clipboardData.files[0]));
$("add").onsubmit = (event) => {
  event.preventDefault();
  const listed = new Set([...known.map((k) => k.name), ...fresh].map(same)), twice = [];
  for (const name of $("names").value.split(",").map((n) => n.trim()).filter(Boolean)) {
    if (listed.has(same(name))) twice.push(name);
    else { fresh.push(name); listed.add(same(name)); }
  }
  $("names").value = "";
  $("name-error").textContent = twice.length ? `Already listed: ${twice.join(", ")}.` : "";
  showChips();
  predict();
};
$("token-form").onsubmit = async (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  await loadClasses();
  predict();
};
loadClasses();
