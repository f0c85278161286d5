// SPDX-License-Identifier: Apache-2.0
// The original beside the result. Both halves are in one video, so they can never be out of step: the canvas
// shows its left half, its right half, or both.

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(2).padStart(5, "0")}`;
}

export function createViewer(clip) {
  const element = document.getElementById("viewer").content.firstElementChild.cloneNode(true);
  const find = (selector) => element.querySelector(selector);
  const canvas = find("canvas"), pair = find(".pair"), alone = find(".alone"), divider = find(".divider");
  const stage = find(".stage"), time = find(".time"), play = find(".play");
  const narrow = matchMedia("(max-width: 700px)");
  let view = "wipe";

  function draw() {
    if (!pair.videoWidth || view === "result") return;
    const width = pair.videoWidth / 2, height = pair.videoHeight;
    const stacked = view === "beside" && narrow.matches, abreast = view === "beside" && !stacked;
    const size = [abreast ? 2 * width : width, stacked ? 2 * height : height];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    stage.classList.toggle("stacked", stacked);
    const context = canvas.getContext("2d");
    const half = (number, x, y) => context.drawImage(pair, number * width, 0, width, height, x, y, width, height);
    if (view === "beside") {
      half(0, 0, 0);
      half(1, abreast ? width : 0, stacked ? height : 0);
      return;
    }
    const border = Math.round(width * divider.value / 1000);
    half(1, 0, 0);
    if (border > 0) context.drawImage(pair, 0, 0, border, height, 0, 0, border, height);
    const line = Math.max(1, Math.round(width / 400));
    context.fillStyle = "#fff";
    context.fillRect(border - line / 2, 0, line, height);
  }

  function follow() {
    draw();
    if (document.activeElement !== time || !pair.paused) time.value = pair.currentTime;
    const end = Number.isFinite(pair.duration) ? pair.duration : 0;
    find(".clock").textContent = `${clock(pair.currentTime)} / ${clock(end)}`;
    time.setAttribute("aria-valuetext", clock(pair.currentTime));
  }

  function everyFrame() {
    follow();
    if (pair.paused || !element.isConnected) return;
    if (pair.requestVideoFrameCallback) pair.requestVideoFrameCallback(everyFrame);
    else requestAnimationFrame(everyFrame);
  }

  function seek(seconds) {
    pair.pause();
    pair.currentTime = seconds;
    if (view === "result") choose("wipe");
    stage.scrollIntoView({ block: "nearest" });
  }

  function choose(name) {
    view = name;
    for (const button of element.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", String(button.dataset.view === name));
    }
    const single = name === "result";
    stage.hidden = find(".transport").hidden = single;
    alone.hidden = !single;
    divider.hidden = name !== "wipe";
    find(".unplayable").hidden = !(single && alone.error);
    if (single) {
      pair.pause();
      if (!alone.src) alone.src = `/api/clips/${clip.id}/result`;
    } else {
      alone.pause();
      draw();
    }
  }

  play.onclick = () => pair.paused ? pair.play() : pair.pause();
  pair.onplay = () => {
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause");
    everyFrame();
  };
  pair.onpause = () => {
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play");
  };
  pair.onloadedmetadata = () => { time.max = pair.duration; };
  pair.onloadeddata = pair.onseeked = follow;
  time.oninput = () => {
    pair.pause();
    pair.currentTime = time.value;
  };
  divider.oninput = draw;
  find(".speed").onchange = (event) => { pair.playbackRate = event.target.value; };
  const drag = (event) => {
    if (view !== "wipe" || (event.type === "pointermove" && !event.buttons)) return;
    const box = canvas.getBoundingClientRect();
    divider.value = 1000 * (event.clientX - box.left) / box.width;
    draw();
  };
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag(event);
  };
  canvas.onpointermove = drag;
  alone.onerror = () => { find(".unplayable").hidden = view !== "result"; };
  narrow.addEventListener("change", draw);
  for (const button of element.querySelectorAll("[data-view]")) button.onclick = () => choose(button.dataset.view);

  find(".marks").append(
    ...marks("Weakest moments", clip.weakest.map((each) => [each.time, `${each.scores.PSNR.toFixed(1)} dB`])),
    ...marks("Cuts found", (clip.facts.cut_times ?? []).map((each) => [each, ""])),
  );

  function marks(title, moments) {
    if (!moments.length) return [];
    const head = Object.assign(document.createElement("h3"), { textContent: title });
    const list = document.createElement("ul");
    for (const [moment, text] of moments) {
      const seconds = moment * clip.stretch, item = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.textContent = [clock(seconds), text].filter(Boolean).join(" · ");
      button.onclick = () => seek(seconds);
      item.append(button);
      list.append(item);
    }
    return [head, list];
  }

  if (clip.files.compare) pair.src = `/api/clips/${clip.id}/compare`;
  else choose("result");
  return element;
}
