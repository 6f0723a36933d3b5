"use strict";

// Names of clips, captions and labels come from data: they are only ever set as text.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const BONES = [[5, 6], [5, 7], [7, 9], [6, 8], [8, 10], [5, 11], [6, 12], [11, 12], [11, 13], [13, 15], [12, 14], [14, 16], [0, 5], [0, 6], [0, 1], [0, 2], [1, 3], [2, 4]];
const SHAPES = [
  ["circle", "M0-1.6A1.6 1.6 0 1 1 0 1.6A1.6 1.6 0 1 1 0-1.6Z"], ["square", "M-1.5-1.5H1.5V1.5H-1.5Z"],
  ["triangle", "M0-1.9L1.8 1.4H-1.8Z"], ["diamond", "M0-2.1L2.1 0L0 2.1L-2.1 0Z"],
  ["cross", "M-1.5-1.5L1.5 1.5M1.5-1.5L-1.5 1.5"], ["plus", "M-1.9 0H1.9M0-1.9V1.9"],
  ["lower triangle", "M0 1.9L1.8-1.4H-1.8Z"], ["bar", "M-2-0.6H2V0.6H-2Z"], ["upright bar", "M-0.6-2H0.6V2H-0.6Z"],
];
const FILLINGS = ["hollow", "full", "half"];
const mayMove = !window.matchMedia("(prefers-reduced-motion: reduce)").matches;
let isPaused = !mayMove;
let asked = 0;

async function get(address) {
  const reply = await fetch(address);
  const values = await reply.json();
  if (!reply.ok) throw new Error(values.error);
  return values;
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

async function show(address, what) {
  const number = ++asked;
  say("searching ...");
  try {
    const found = await get(address);
    if (number !== asked) return; // a later question was asked meanwhile
    $("results").replaceChildren(...found.hits.map((hit) => card(hit, found.is_by_words)));
    markFound(found.hits.map((hit) => hit.row));
    if (found.n_searched === undefined) { say(what); return; }
    const how = found.recall < 1 ? `, approximately (recall at 10 of ${found.recall.toFixed(2)}, measured)` : "";
    const many = found.hits.length === 1 ? "1 result" : `${found.hits.length} results`;
    say(`${many} for ${what}, among ${found.n_searched} rows${how}`);
  } catch (error) {
    if (number === asked) say(error.message, true);
  }
}

function search() {
  const query = $("query").value.trim();
  if (!query) { say("Type what to look for.", true); $("query").focus(); return; }
  const mode = $("mode-captions").checked ? "captions" : "text";
  const label = $("label").value;
  const address = new URLSearchParams({ [mode]: query });
  if (label) address.set("label", label);
  show(`/api/search?${address}`, `“${query}”${mode === "captions" ? " in captions" : ""}${label ? `, label ${label}` : ""}`);
}

function like(row, name) {
  const address = new URLSearchParams({ like: row });
  if ($("label").value) address.set("label", $("label").value);
  $("results").scrollIntoView({ block: "start" });
  show(`/api/search?${address}`, `clips like ${name}`);
}

function facts(hit, isByWords) {
  const said = [hit.clip_id];
  if (hit.label !== undefined) said.push(`label ${hit.label}`);
  if (hit.similarity !== null) said.push(`${isByWords ? "score of words" : "similarity"} ${hit.similarity.toFixed(3)}`);
  if (hit.start_seconds !== undefined && hit.end_seconds !== undefined) said.push(`${hit.start_seconds.toFixed(1)} to ${hit.end_seconds.toFixed(1)} s`);
  if (hit.subject !== undefined) said.push(`subject ${hit.subject}`);
  return said.join(" · ");
}

function card(hit, isByWords) {
  const item = $("card").content.cloneNode(true).querySelector("li");
  const video = item.querySelector("video");
  const part = (name) => item.querySelector(`.${name}`);
  item.dataset.row = hit.row;
  item.dataset.clip = hit.clip_id;
  part("said").textContent = hit.caption ?? "";
  part("facts").textContent = facts(hit, isByWords);
  if (hit.problem) { part("problem").textContent = hit.problem; part("problem").hidden = false; }
  if (hit.has_video) {
    video.setAttribute("aria-label", `moving picture of ${hit.clip_id}`);
    part("open").href = `/video/${hit.row}`;
    part("play").addEventListener("click", () => { video.paused ? start(video) : video.pause(); });
    video.addEventListener("play", () => { part("play").textContent = "Pause"; });
    video.addEventListener("pause", () => { part("play").textContent = "Play"; });
    video.addEventListener("error", async () => {
      const reply = await fetch(`/thumbnail/${hit.row}`);
      part("problem").textContent = reply.ok ? "this browser cannot play the picture" : (await reply.json()).error;
      part("problem").hidden = false;
    });
    seen.observe(video);
  } else {
    video.hidden = part("open").hidden = part("play").hidden = true;
  }
  part("like").addEventListener("click", () => like(hit.row, hit.clip_id));
  part("skeleton").hidden = !hit.has_joints;
  part("skeleton").addEventListener("click", (event) => toggleSkeleton(item, hit, event.currentTarget));
  if (hit.has_joints && !hit.has_video) toggleSkeleton(item, hit, part("skeleton"));
  return item;
}

function start(video) {
  if (!video.src) video.src = `/thumbnail/${video.closest("li").dataset.row}`;
  video.play().catch(() => {}); // taken off the page, or not allowed yet: its button still plays it
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const video = entry.target;
    if (!entry.isIntersecting) { video.pause(); continue; }
    if (!video.src) { video.preload = "auto"; video.src = `/thumbnail/${video.closest("li").dataset.row}`; }
    if (!isPaused) start(video);
  }
});

function setPaused(value) {
  isPaused = value;
  $("pause").setAttribute("aria-pressed", String(value));
  for (const video of document.querySelectorAll(".card video[src]")) value ? video.pause() : start(video);
}

async function toggleSkeleton(item, hit, button) {
  const canvas = item.querySelector("canvas");
  const isOn = canvas.hidden;
  canvas.hidden = !isOn;
  button.setAttribute("aria-pressed", String(isOn));
  if (!isOn || canvas.dataset.loaded) return;
  canvas.dataset.loaded = "yes";
  try {
    draw(item, canvas, await get(`/joints/${hit.row}`));
  } catch (error) {
    canvas.hidden = true;
    item.querySelector(".problem").textContent = error.message;
    item.querySelector(".problem").hidden = false;
  }
}

function draw(item, canvas, joints) {
  const video = item.querySelector("video");
  const nFrames = joints.people[0].length;
  item.querySelector(".picture").classList.toggle("apart", !joints.is_over_video);
  canvas.width = 320;
  canvas.height = Math.round(320 / joints.aspect);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `skeletons of ${joints.people.length} people`);
  const context = canvas.getContext("2d");
  const began = performance.now();
  const step = () => {
    if (!canvas.isConnected) return;
    const seconds = video.hidden ? (isPaused ? 0 : (performance.now() - began) / 1000) : video.currentTime;
    const frame = Math.floor(seconds * joints.frames_per_second + 0.001) % nFrames;
    canvas.dataset.frame = frame;
    context.clearRect(0, 0, canvas.width, canvas.height);
    joints.people.forEach((person, i) => paint(context, canvas, person[frame], i));
    requestAnimationFrame(step);
  };
  step();
}

function paint(context, canvas, points, person) {
  const at = (point) => [point[0] * canvas.width, point[1] * canvas.height];
  context.setLineDash([[], [10, 5], [3, 4]][person % 3]); // people differ by their lines, not by colour alone
  for (const [colour, width] of [["#000000", 6], [["#ffd400", "#4dd0ff", "#ff9de2"][person % 3], 3]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const [a, b] of BONES) {
      if (!points[a] || !points[b]) continue;
      context.moveTo(...at(points[a]));
      context.lineTo(...at(points[b]));
    }
    context.stroke();
  }
}

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function drawMap(map) {
  const labels = [...new Set(map.points.map((point) => point.label ?? ""))].sort();
  const shape = (label) => { // a form and a filling for each of 27 labels; further ones repeat
    const number = labels.indexOf(label ?? "");
    const [name, path] = SHAPES[number % SHAPES.length];
    const filling = FILLINGS[Math.floor(number / SHAPES.length) % FILLINGS.length];
    return { name: `${filling} ${name}`, path, filling };
  };
  const [first, second] = map.shares.map((share) => `${(100 * share).toFixed(0)} %`);
  const kept = map.points.length < map.n_rows ? `${map.points.length} of ${map.n_rows}` : `${map.n_rows}`;
  $("map-note").textContent = `${kept} vectors of ${map.space} on their two largest principal components, which hold ${first} and ${second} of the variance: near here need not be near in all dimensions. Click a point, or go from point to point by the arrow keys and press Enter, to see clips like it.`;
  const points = map.points.map((point, i) => {
    const group = svg("g", { transform: `translate(${100 * point.x} ${-100 * point.y})`, tabindex: i ? -1 : 0, role: "button", class: "point", "data-row": point.row });
    const said = [point.clip_id, point.label && `label ${point.label}`, point.caption].filter(Boolean).join(", ");
    group.setAttribute("aria-label", said);
    const title = svg("title", {});
    title.textContent = said;
    group.append(title, svg("circle", { class: "hit", r: 3 }), svg("circle", { class: "ring", r: 4 }), svg("path", { d: shape(point.label).path, class: shape(point.label).filling }));
    const choose = () => like(point.row, point.clip_id);
    group.addEventListener("click", choose);
    group.addEventListener("focus", () => { $("map-said").textContent = said; });
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); return; }
      const towards = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!towards) return;
      event.preventDefault();
      const next = nearest(map.points, i, towards);
      if (next === null) return;
      group.setAttribute("tabindex", -1);
      points[next].setAttribute("tabindex", 0);
      points[next].focus();
    });
    return group;
  });
  $("map").replaceChildren(...points);
  $("legend").replaceChildren(...(labels.length > 1 ? labels.map((label) => legend(label, shape(label))) : []));
}

function nearest(points, from, [dx, dy]) {
  let best = null, least = Infinity;
  points.forEach((point, i) => {
    const x = point.x - points[from].x, y = point.y - points[from].y;
    const along = x * dx + y * dy, aside = Math.abs(x * dy - y * dx);
    const cost = along + 2 * aside;
    if (i !== from && along > 0 && aside <= 2 * along && cost < least) { best = i; least = cost; }
  });
  return best;
}

function legend(label, { name, path, filling }) {
  const item = document.createElement("li");
  const icon = svg("svg", { viewBox: "-3 -3 6 6", role: "img", "aria-label": name });
  icon.append(svg("path", { d: path, class: filling }));
  item.append(icon, ` ${label || "no label"}`);
  return item;
}

function markFound(rows) {
  const found = new Set(rows);
  for (const point of document.querySelectorAll("#map .point")) point.classList.toggle("found", found.has(Number(point.dataset.row)));
}

async function begin() {
  const about = await get("/api/about");
  $("about").textContent = `${about.n_rows} rows; ${about.spaces.map((space) => `${space.name}: ${space.n_rows} vectors, ${space.how}`).join("; ")}`;
  for (const label of about.labels) $("label").append(new Option(label, label));
  $("mode-text").disabled = !about.can_text;
  $("mode-captions").disabled = !about.has_captions;
  $(about.can_text ? "mode-text" : "mode-captions").checked = true;
  if (about.why_no_text) { $("why").textContent = about.why_no_text; $("why").hidden = false; }
  if (!about.can_text && !about.has_captions) { $("query").disabled = true; }
  $("form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  $("pause").addEventListener("click", () => setPaused(!isPaused));
  setPaused(isPaused);
  await Promise.all([show("/api/some", "the first clips of the index"), get("/api/map").then(drawMap)]);
}

begin().catch((error) => say(error.message, true));
