"use strict";
// Side-by-side choice. Answers are kept in this browser after each choice, and leave it only as a saved file.

const { page, question, questions, images, pixelated } = JSON.parse(document.getElementById("data").textContent);
const app = document.getElementById("app");
const place = `t2i-human-${page}`;
let kept = true;
let state = load();

function load() {
  try {
    const old = JSON.parse(localStorage.getItem(place));
    if (old && old.rater && Array.isArray(old.answers)) return old;
  } catch {
    kept = false;
  }
  const random = crypto.getRandomValues(new Uint8Array(8));
  return { rater: [...random].map((b) => b.toString(16).padStart(2, "0")).join(""), answers: [] };
}

function save() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    kept = false;
  }
}

function choose(choice) {
  if (state.answers.length >= questions.length) return;
  state.answers.push({ question: questions[state.answers.length].id, choice });
  save();
  show();
}

function undo() {
  state.answers.pop();
  save();
  show();
}

function download() {
  const text = JSON.stringify({ page, rater: state.rater, answers: state.answers }, null, 2) + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `answers-${state.rater}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function button(className, action, ...children) {
  const made = element("button", className, ...children);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function key(name) {
  return element("kbd", "", name);
}

function choice(side, index) {
  const image = document.createElement("img");
  image.alt = `the ${side} image`;
  image.classList.toggle("pixelated", pixelated);
  image.src = images[index];
  const made = button("", () => choose(side), image, key(side === "left" ? "←" : "→"));
  made.dataset.choice = side;
  return made;
}

function show() {
  const done = state.answers.length;
  const filled = element("div", "");
  filled.style.width = `${(100 * done) / questions.length}%`;
  const count = element("p", "count", `${done} of ${questions.length} answered`);
  count.setAttribute("role", "status");
  const parts = [element("div", "bar", filled), count];
  if (!kept) {
    parts.push(element("p", "warning", "This browser cannot store your answers: save them before you close the page."));
  }
  const back = button("plain", undo, "Undo ", key("Backspace"));
  back.disabled = done === 0;
  if (done < questions.length) {
    const shown = questions[done];
    parts.push(element("p", "question", question), element("h1", "", shown.prompt));
    parts.push(element("div", "pair", choice("left", shown.left), choice("right", shown.right)));
    const tie = button("plain", () => choose("tie"), "No difference ", key("↓ or space"));
    const early = button("plain", download, "Save and stop here");
    early.disabled = done === 0;
    parts.push(element("div", "others", tie, back, early));
  } else {
    const thanks = element("p", "", "That was the last one. Save your answers and send the file to whoever asked you.");
    const buttons = element("div", "others", button("plain main", download, "Save answers"), back);
    parts.push(element("div", "end", element("h1", "", "Thank you"), thanks, buttons));
  }
  app.replaceChildren(...parts);
}

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", " ": "tie" };

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.closest("button")) return; // a button that has the focus is pressed
  if (event.key === "Backspace" && state.answers.length) undo();
  else if (event.key in KEYS && state.answers.length < questions.length) choose(KEYS[event.key]);
  else return;
  event.preventDefault();
});

show();
