// Everything works without this; it only makes some things nicer.
"use strict";

for (const button of document.querySelectorAll("[data-show]")) {
  const input = document.getElementById(button.dataset.show);
  button.hidden = false;
  button.addEventListener("click", () => {
    const isShown = input.type === "text";
    input.type = isShown ? "password" : "text";
    button.textContent = isShown ? "Show" : "Hide";
    button.setAttribute("aria-label", `${button.textContent} password`);
  });
  // A password that is sent while it is shown would be kept by the browser like any text.
  input.form.addEventListener("submit", () => { input.type = "password"; });
}

document.querySelector(".error-summary, .flash")?.focus();

for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    if (event.timeStamp - form.dataset.sentAt < 5000) event.preventDefault();
    else form.dataset.sentAt = event.timeStamp;
  });
}

// Times are written in UTC; here is known what time that is for the reader, and on which day.
const inWords = (date, how) => date.toLocaleString("en-GB", how);
const DAY = {day: "numeric", month: "long"}, TIME = {hour: "2-digit", minute: "2-digit"};
const LOCAL = {
  moment: (date) => `${inWords(date, {...DAY, year: "numeric"})}, ${inWords(date, TIME)}`,
  time: (date) => inWords(date, TIME),
  day: (date) => inWords(date, date.getFullYear() === new Date().getFullYear() ? DAY : {...DAY, year: "numeric"}),
  end: (date) => {
    if (date - Date.now() >= 86400000) return inWords(date, DAY);
    const isToday = date.toDateString() === new Date().toDateString();
    return `${inWords(date, TIME)} ${isToday ? "today" : "tomorrow"}`;
  },
};
for (const time of document.querySelectorAll("[data-local]")) {
  time.textContent = LOCAL[time.dataset.local](new Date(time.dateTime));
}

// So are the days that a list is divided into: what was on another one here is put under that.
const days = [...document.querySelectorAll(".day")];
let shown;
for (const row of days.flatMap((day) => [...day.querySelectorAll("li")])) {
  const name = LOCAL.day(new Date(row.querySelector("time").dateTime));
  if (shown?.firstElementChild.textContent !== name) {
    shown = days[0].cloneNode(true);
    shown.firstElementChild.textContent = name;
    shown.lastElementChild.replaceChildren();
    days[0].before(shown);
  }
  shown.lastElementChild.append(row);
}
for (const day of days) day.remove();

// The address typed at the login goes along to the reset form, in no URL and no cookie.
const email = document.getElementById("email");
document.querySelector("[data-takes-email]")?.addEventListener("click", () => {
  sessionStorage.email = email.value;
});
if (email && location.pathname === "/forgot-password") {
  email.value ||= sessionStorage.email ?? "";
  sessionStorage.removeItem("email");
}

// A page from the back/forward cache may show what is no longer true, or no longer one's own.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
