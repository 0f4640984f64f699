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
});
