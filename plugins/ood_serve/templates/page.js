"use strict";

const at = (id) => document.getElementById(id);
const main = document.querySelector("main");
const nearest = Number(main.dataset.nearest);
const mapped = () => main.dataset.mapped === "true" && at("mapped").checked;

let chosen = null;  // the image that is shown
let asked = 0;  // so that a late answer does not replace that to a later question

/* ------------------------------------------------------------------------------------------------------- asking */

async function ask() {
  if (!chosen) return;
  const mine = ++asked;
  say("scoring …");
  at("found").classList.add("old");
  const query = new URLSearchParams({ scorer: at("scorer").value });
  if (at("tpr").value) query.set("tpr", at("tpr").value);
  if (nearest) query.set("nearest", nearest);
  if (mapped()) query.set("error_map", "true");
  const body = new FormData();
  body.append("image", chosen, chosen.name || "pasted image");
  try {
    const response = await fetch(`score?${query}`, { method: "POST", body });
    const answer = await response.json();
    if (mine !== asked) return;
    if (!response.ok) throw new Error(answer.error);
    say("");
    show(answer.results[0], answer);
  } catch (error) {
    if (mine !== asked) return;
    say(error instanceof TypeError ? "the service does not answer" : error.message, true);
    at("found").hidden = true;
  }
}

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

/* ------------------------------------------------------------------------------------------------------ showing */

function show(result, { tpr, error_scale: scale }) {
  const decision = at("decision");
  decision.textContent = result.is_ood ? "out of distribution" : "in distribution";
  decision.className = result.is_ood ? "ood" : "id";
  at("name").textContent = result.name;
  at("score").textContent = rounded(result.score);
  at("threshold").textContent = `${rounded(result.threshold)}, which accepts ${rounded(100 * tpr)} % of in-distribution images`;
  at("p_value").textContent = rounded(result.p_value);
  at("predicted").textContent = result.predicted ?? "there is no classifier";
  at("scores").replaceChildren(...Object.entries(result.scores).map(([name, score]) => {
    const row = document.createElement("tr");
    row.append(cell(name), cell(rounded(score), "n"));
    return row;
  }));
  showNearest(result.nearest ?? []);
  showMap(result.error_map ?? [], scale);
  showPicture();
  at("found").classList.remove("old");
  at("found").hidden = false;
}

function rounded(value, digits = 6) {
  return String(Number(value.toPrecision(digits)));
}

function cell(text, kind = "") {
  const made = document.createElement("td");
  made.textContent = text;
  made.className = kind;
  return made;
}

function showPicture() {
  const preview = at("preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = false;
  preview.alt = chosen.name || "pasted image";
  preview.onload = () => preview.classList.toggle("large", preview.naturalWidth > 200);
  preview.onerror = () => { preview.hidden = true; };  // a format that the detector knows and the browser does not
  preview.src = URL.createObjectURL(chosen);
}

function showNearest(neighbours) {
  at("nearest").hidden = !neighbours.length;
  at("nearest").querySelector("ul").replaceChildren(...neighbours.map((of) => {
    const item = document.createElement("li");
    const picture = document.createElement("img");
    picture.src = of.picture;
    picture.alt = `an image of class ${of.class}`;
    const distance = document.createElement("small");
    distance.textContent = `distance ${rounded(of.distance, 3)}`;
    item.append(picture, of.class, document.createElement("br"), distance);
    return item;
  }));
}

/* The same colour is the same error for all images: from 0 to what nearly all patches of in-distribution images have. */
function showMap(rows, scale) {
  at("map").hidden = !rows.length;
  if (!rows.length) return;
  const canvas = at("map").querySelector("canvas");
  [canvas.width, canvas.height] = [rows[0].length, rows.length];
  const values = rows.flat();
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const pen = canvas.getContext("2d");
  rows.forEach((row, y) => row.forEach((value, x) => {
    pen.fillStyle = colour(Math.min(1, scale > 0 ? value / scale : 1));
    pen.fillRect(x, y, 1, 1);
  }));
  at("range").textContent = `on one scale for all images: from 0 (dark) to ${rounded(scale, 3)} or more (light), which 99 % of the patches of in-distribution images stay below; here ${rounded(least, 3)} to ${rounded(most, 3)}`;
  canvas.setAttribute("aria-label", `map of ${rows.length} by ${rows[0].length} patches, errors from ${rounded(least, 3)} to ${rounded(most, 3)}`);
}

/* From dark blue over red to light yellow, ever lighter. */
function colour(share) {
  return `hsl(${260 + 160 * share} ${55 + 35 * share}% ${12 + 70 * share}%)`;
}

/* ----------------------------------------------------------------------------------------------------- choosing */

function choose(files) {
  if (!files.length) return;
  chosen = files[0];
  ask();
}

at("ask").addEventListener("submit", (event) => event.preventDefault());
at("file").addEventListener("change", (event) => { choose(event.target.files); event.target.value = ""; });
for (const id of ["scorer", "tpr", "mapped"]) at(id)?.addEventListener("change", ask);
document.addEventListener("paste", (event) => choose(event.clipboardData.files));

document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  choose(event.dataTransfer.files);
});
