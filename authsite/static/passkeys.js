// Passkeys: what is asked stands on a button, what a passkey answers goes into a hidden field of its form.
"use strict";

(() => {
  const api = window.PublicKeyCredential;
  if (!api?.parseRequestOptionsFromJSON) return;
  const read = {create: "parseCreationOptionsFromJSON", get: "parseRequestOptionsFromJSON"};
  let offer; // the list under the email field, which waits

  const ask = async (button, how) => {
    const {kind, options, field} = button.dataset, {elements} = button.form;
    const publicKey = api[read[kind]](JSON.parse(options));
    const answer = await navigator.credentials[kind]({publicKey, ...how});
    elements[field].value = JSON.stringify(answer);
    const box = document.getElementById("remember");
    if (box && elements.remembers) elements.remembers.value = box.checked ? "y" : "";
    button.form.requestSubmit();
  };

  for (const button of document.querySelectorAll("[data-kind]")) {
    const word = document.createElement("p");
    word.setAttribute("role", "alert");
    button.hidden = false;
    button.addEventListener("click", () => {
      offer?.abort();
      word.remove();
      ask(button).catch(({name}) => {
        if (name === "NotAllowedError" || name === "AbortError") return; // the person chose not to
        word.textContent = name === "InvalidStateError" ? "This device has a passkey for this account already." : "That did not work. Try again.";
        button.after(word);
      });
    });
  }

  // Once, and beside no error: a list that failed would come back for ever.
  const first = document.querySelector("[data-offer]");
  if (first && !document.querySelector(".error-summary")) {
    api.isConditionalMediationAvailable?.().then((is) => {
      if (!is) return;
      offer = new AbortController();
      ask(first, {mediation: "conditional", signal: offer.signal}).catch(() => {});
    });
  }

  for (const {dataset} of document.querySelectorAll("[data-unknown], [data-accepted]")) {
    if (dataset.unknown) api.signalUnknownCredential?.(JSON.parse(dataset.unknown)).catch(() => {});
    else api.signalAllAcceptedCredentials?.(JSON.parse(dataset.accepted)).catch(() => {});
  }
})();
