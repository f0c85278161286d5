// SPDX-License-Identifier: Apache-2.0
// The form, the upload, and a card for each clip. The server is asked for the clips' state again and again.

import { createViewer } from "./viewer.js";

const BUSY = 700, IDLE = 10000; // milliseconds between two questions
const $ = (id) => document.getElementById(id);
const cards = new Map();
let settings, upload, timer;

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) location.assign("/login");
  const body = answer.status === 204 ? {} : await answer.json();
  if (!answer.ok) throw new Error(body.message);
  return body;
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function span(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
}

function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

// ---- the form

function fill(select, options, chosen) {
  for (const [value, text] of options) select.add(new Option(text, value, value === chosen, value === chosen));
}

function modeChanged() {
  const mode = $("order").elements.mode.value;
  for (const label of document.querySelectorAll("[data-for]")) {
    label.hidden = !label.dataset.for.split(" ").includes(mode);
  }
  $("fps").placeholder = mode === "slower" ? "as it is" : "60";
}

function fileChanged() {
  const file = $("file").files[0];
  show($("error"), "");
  $("chosen").textContent = file ? `${file.name}, ${size(file.size)}` : "Drop a video here, or choose one";
  $("start").disabled = !file;
  if (file && settings && file.size > settings.upload_bytes) {
    show($("error"), `The file is larger than ${size(settings.upload_bytes)}, the limit of this server. Cut the clip, or compress it more.`);
    $("start").disabled = true;
  }
}

function start(event) {
  event.preventDefault();
  const file = $("file").files[0], form = $("order").elements;
  if (!file || upload) return;
  const query = new URLSearchParams({ name: file.name, mode: form.mode.value, factor: form.factor.value, codec: form.codec.value });
  if (form.mode.value !== "smoother") query.set("fps", form.fps.value || (form.mode.value === "rate" ? "60" : ""));
  if (form.dedup.checked) query.set("dedup", "1");
  if (form.report.checked) query.set("report", "1");
  show($("error"), "");
  upload = new XMLHttpRequest(); // fetch reports no progress of uploads
  upload.open("POST", `/api/clips?${query}`);
  upload.responseType = "json";
  upload.upload.onprogress = (sent) => {
    $("sent").value = sent.loaded / sent.total;
    if (sent.loaded === sent.total) $("sent").removeAttribute("value"); // the server looks at the file
  };
  upload.onload = () => {
    if (upload.status === 401) location.assign("/login");
    const failed = upload.status >= 400;
    sent(failed ? upload.response?.message ?? "The upload failed." : "");
    if (!failed) {
      $("file").value = "";
      fileChanged();
      refresh();
    }
  };
  upload.onerror = () => sent("The connection to the server broke, or it refused the upload.");
  upload.onabort = () => sent("");
  upload.send(file);
  $("sent").value = 0;
  $("sending").hidden = false;
  $("start").disabled = true;
}

function sent(message) {
  upload = undefined;
  $("sending").hidden = true;
  $("start").disabled = !$("file").files[0];
  show($("error"), message);
}

function prepareDrop() {
  const drop = $("drop");
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  addEventListener("dragover", () => drop.classList.add("over"));
  addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    drop.classList.remove("over");
    if (!event.dataTransfer.files.length || upload) return;
    $("file").files = event.dataTransfer.files;
    fileChanged();
  });
}

// ---- the clips

async function refresh() {
  clearTimeout(timer);
  let wait = BUSY;
  try {
    const { clips } = await ask("/api/clips");
    const present = new Set(clips.map((clip) => clip.id));
    for (const [id, card] of cards) {
      if (!present.has(id)) {
        card.element.remove();
        cards.delete(id);
      }
    }
    clips.filter((clip) => clip.state !== "uploading").forEach(update);
    if (!clips.some((clip) => ["waiting", "running"].includes(clip.state))) wait = IDLE;
  } catch {
    wait = IDLE; // the server has ended, or the network is away
  }
  timer = setTimeout(refresh, wait);
}

function update(clip) {
  const card = cards.get(clip.id) ?? create(clip);
  const find = (selector) => card.element.querySelector(selector);
  const active = ["waiting", "running"].includes(clip.state);
  if (card.element.dataset.state !== clip.state) {
    card.element.dataset.state = clip.state;
    $("news").textContent = `${clip.name}: ${clip.state}`; // progress would be too much for screen readers
  }
  find(".cancel").hidden = !active;
  find(".remove").hidden = active;
  show(find(".status"), status(clip));
  show(find(".error"), clip.state === "failed" ? clip.message : "");
  const bar = find("progress"), { done, total } = clip.progress;
  bar.hidden = clip.state !== "running";
  if (total) bar.value = Math.min(done / total, 1);
  else bar.removeAttribute("value");
  const warnings = find(".warnings");
  warnings.hidden = !clip.warnings.length;
  if (warnings.childElementCount !== clip.warnings.length) {
    warnings.replaceChildren(...clip.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  }
  if (clip.state === "done" && !card.shown) {
    card.shown = true;
    const result = find(".result");
    result.replaceChildren(createViewer(clip), ...extras(clip));
    result.hidden = false;
  }
}

function create(clip) {
  const element = $("card").content.firstElementChild.cloneNode(true);
  element.querySelector("h2").textContent = clip.name;
  element.querySelector("progress").setAttribute("aria-label", `Progress of ${clip.name}`);
  const act = (path, method) => async () => {
    try { await ask(path, { method }); } catch { /* it ended meanwhile */ }
    refresh();
  };
  element.querySelector(".cancel").onclick = act(`/api/clips/${clip.id}/cancel`, "POST");
  element.querySelector(".remove").onclick = act(`/api/clips/${clip.id}`, "DELETE");
  $("clips").prepend(element);
  const card = { element, shown: false };
  cards.set(clip.id, card);
  return card;
}

function status(clip) {
  const { facts, progress } = clip;
  switch (clip.state) {
    case "waiting":
      return clip.ahead === 0 ? "Next" : `Waiting: ${clip.ahead} ${clip.ahead === 1 ? "clip runs" : "clips run"} before it`;
    case "running": {
      const words = [clip.step[0].toUpperCase() + clip.step.slice(1)];
      if (progress.done) words.push(progress.total ? `${progress.done} of ${progress.total} frames` : `frame ${progress.done}`);
      if (progress.seconds_left) words.push(`about ${span(progress.seconds_left)} left`);
      return words.join(" · ");
    }
    case "done": {
      const cuts = facts.cuts ? `, ${facts.cuts} ${facts.cuts === 1 ? "cut" : "cuts"} kept` : "";
      const repeats = facts.repeats ? `, ${facts.repeats} repeated frames evened out` : "";
      const kept = clip.seconds_kept === null ? "" : ` Deleted in ${span(clip.seconds_kept)}.`;
      return `${facts.frames_in} frames became ${facts.frames_out}${cuts}${repeats}, in ${span(facts.seconds)}.${kept}`;
    }
    case "cancelled":
      return "Cancelled";
    default:
      return "";
  }
}

function extras(clip) {
  const elements = [];
  const downloads = document.createElement("div");
  downloads.className = "downloads";
  const names = { result: "Download the result", compare: "Download the comparison", report: "Download the report" };
  for (const [what, text] of Object.entries(names)) {
    const file = clip.files[what];
    if (!file) continue;
    const link = document.createElement("a");
    link.className = what === "result" ? "button primary" : "button";
    link.href = `/api/clips/${clip.id}/${what}?download`;
    link.download = file.name;
    link.textContent = `${text} (${size(file.bytes)})`;
    downloads.append(link);
  }
  elements.push(downloads);
  if (clip.files.report) {
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    summary.textContent = "Report: scores of each shot, and pictures of the weakest moments";
    details.append(summary);
    details.ontoggle = () => {
      if (!details.open || details.childElementCount > 1) return;
      const frame = document.createElement("iframe");
      frame.title = `Report on ${clip.name}`;
      frame.sandbox = "";
      frame.src = `/api/clips/${clip.id}/report`;
      details.append(frame);
    };
    elements.push(details);
  }
  return elements;
}

// ---- start

$("order").onsubmit = start;
$("order").onchange = modeChanged;
$("file").onchange = fileChanged;
$("abort").onclick = () => upload?.abort();
prepareDrop();
modeChanged();
settings = await ask("/api/settings");
fill($("factor"), settings.factors.map((factor) => [String(factor), String(factor)]), "2");
fill($("codec"), Object.entries(settings.codecs), "h264");
$("limits").textContent = `Up to ${size(settings.upload_bytes)}, ${span(settings.seconds)} and ${settings.megapixels} megapixels. `
  + `Files are deleted after ${span(settings.keep_hours * 3600)}.` + (settings.sound ? "" : " Sound is left out.");
$("logout").hidden = !settings.password;
fileChanged();
refresh();
