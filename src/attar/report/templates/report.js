"use strict";
document.documentElement.classList.add("js");
addEventListener("DOMContentLoaded", () => {
  const find = (id) => document.getElementById(id);
  const slider = find("time"), play = find("play"), stored = find("stored"), cursor = find("cursor");
  const times = slider ? JSON.parse(slider.dataset.times) : [];
  let clock = 0;

  function show() {
    const t = Number(slider.value), end = times.length - 1;
    stored.style.setProperty("--t", t);
    stored.classList.toggle("before", t < end);
    slider.setAttribute("aria-valuetext", times[t].words);
    find("when").textContent = times[t].words;
    if (cursor) {
      cursor.toggleAttribute("hidden", times[t].x === null);
      cursor.setAttribute("x1", times[t].x ?? 0);
      cursor.setAttribute("x2", times[t].x ?? 0);
    }
  }

  function stop() {
    clearInterval(clock);
    clock = 0;
    play.textContent = "Play";
  }

  if (slider) {
    slider.addEventListener("input", () => { stop(); show(); });
    play.addEventListener("click", () => {
      if (clock) return stop();
      play.textContent = "Stop";
      slider.value = 0;
      show();
      clock = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === times.length - 1) stop();
      }, 450);
    });
    show();
  }
  const large = find("large"), all = [...document.querySelectorAll(".gallery .lines")];
  let opened = -1;
  function enlarge(lines) {
    const figure = lines.closest("figure"), gallery = lines.closest(".gallery").cloneNode(false);
    gallery.removeAttribute("id");
    const view = lines.closest(".gallery");
    gallery.style.setProperty("--wide", Math.ceil(2.5 * view.style.getPropertyValue("--wide")));
    gallery.style.setProperty("--narrow", Math.ceil(2 * view.style.getPropertyValue("--narrow")));
    const copy = figure.cloneNode(true);
    for (const [k, cell] of [...copy.querySelectorAll("i")].entries()) {
      cell.style.backgroundImage = getComputedStyle(figure.querySelectorAll("i")[k]).backgroundImage;
    }
    const button = copy.querySelector(".lines");
    button.removeAttribute("tabindex");
    button.removeAttribute("role");
    gallery.append(copy);
    large.replaceChildren(gallery);
    large.showModal();
    opened = all.indexOf(lines);
  }
  for (const lines of all) {
    lines.addEventListener("click", () => enlarge(lines));
    lines.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(lines); }
    });
  }
  large.addEventListener("click", () => large.close());
  const choices = [...document.querySelectorAll("input[name=view]")];
  function choose() {
    for (const choice of choices) find(choice.value).hidden = !choice.checked;
    const first = !choices.length || choices[0].checked;
    if (slider) {
      if (!first) stop();
      find("through").hidden = !first;
    }
  }
  for (const choice of choices) choice.addEventListener("change", choose);
  choose();

  // The page of a run loads itself anew: what the reader has chosen stays.
  const key = `attar ${location.pathname}`, folds = [...document.querySelectorAll("details")];
  if (document.querySelector("meta[http-equiv=refresh]")) addEventListener("pagehide", () => {
    const kept = {
      view: choices.find((choice) => choice.checked)?.value,
      time: slider && Number(slider.value) < times.length - 1 ? times[slider.value].words : null,
      opened: large.open ? all[opened].closest(".gallery").id : null,
      nth: large.open ? [...all[opened].closest(".gallery").querySelectorAll(".lines")].indexOf(all[opened]) : 0,
      focus: document.activeElement.id,
      folds: folds.map((fold) => fold.open),
      scroll: scrollY,
    };
    try { sessionStorage.setItem(key, JSON.stringify(kept)); } catch { /* not allowed here */ }
  });
  let kept = null;
  try {
    kept = JSON.parse(sessionStorage.getItem(key));
    sessionStorage.removeItem(key);
  } catch { /* not allowed here */ }
  if (!kept) return;
  const chosen = choices.find((choice) => choice.value === kept.view);
  if (chosen) { chosen.checked = true; choose(); }
  const time = times.findIndex((one) => one.words === kept.time);
  if (time >= 0) { slider.value = time; show(); }
  folds.forEach((fold, k) => { fold.open = kept.folds[k] ?? fold.open; });
  find(kept.focus)?.focus({ preventScroll: true });
  scrollTo(0, kept.scroll);
  const lines = kept.opened && find(kept.opened)?.querySelectorAll(".lines")[kept.nth];
  if (lines) enlarge(lines);
});
