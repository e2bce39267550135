// Passkeys: made and used in the browser. The server says what is to be signed; what was signed goes back in a form.
"use strict";

function bytes(text) {
  const plain = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

function text(buffer) {
  const letters = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
  return btoa(letters).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

async function told(url, form, fields) {
  const body = new URLSearchParams(fields);
  const token = form.querySelector("[name=csrf]");
  if (token) body.set("csrf", token.value);
  const answer = await fetch(url, { method: "POST", body });
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
  return answer.json();
}

function listed(credentials) {
  return (credentials || []).map((one) => ({ ...one, id: bytes(one.id) }));
}

// A new passkey, as the JSON of a RegistrationResponse. https://www.w3.org/TR/webauthn-3/
async function made(form) {
  const options = await told(form.dataset.begin, form, {});
  options.challenge = bytes(options.challenge);
  options.user.id = bytes(options.user.id);
  options.excludeCredentials = listed(options.excludeCredentials);
  const credential = await navigator.credentials.create({ publicKey: options });
  return JSON.stringify({
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    response: {
      clientDataJSON: text(credential.response.clientDataJSON),
      attestationObject: text(credential.response.attestationObject),
    },
  });
}

// What a passkey signed for this subject, as the JSON of an AuthenticationResponse.
async function signed(url, form, subject) {
  const options = await told(url, form, { subject });
  options.challenge = bytes(options.challenge);
  options.allowCredentials = listed(options.allowCredentials);
  const credential = await navigator.credentials.get({ publicKey: options });
  const { response } = credential;
  return JSON.stringify({
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    response: {
      clientDataJSON: text(response.clientDataJSON),
      authenticatorData: text(response.authenticatorData),
      signature: text(response.signature),
      userHandle: response.userHandle ? text(response.userHandle) : null,
    },
  });
}

function failed(form, error) {
  console.warn(error);
  const words = form.querySelector("[role=alert]");
  if (words) words.hidden = false;
  form.removeAttribute("aria-busy");
}

// A form that takes a code takes a passkey as well: where no code was typed, the browser is asked for one.
async function prove(form) {
  const proof = form.querySelector(".proof");
  const field = proof && proof.querySelector("[name=code]");
  if (!field || field.value.trim() || proof.dataset.passkeys === undefined) return;
  field.value = await signed(proof.dataset.ask, form, form.dataset.subject);
}

if (window.PublicKeyCredential) {
  const fresh = document.querySelector("#new-passkey");
  if (fresh) {
    fresh.hidden = false;
    document.querySelector("#no-passkeys").hidden = true;
    fresh.addEventListener("submit", (event) => {
      event.preventDefault();
      fresh.setAttribute("aria-busy", "true");
      prove(fresh)
        .then(() => made(fresh))
        .then((credential) => {
          fresh.querySelector("[name=credential]").value = credential;
          fresh.submit();
        })
        .catch((error) => failed(fresh, error));
    });
  }
  for (const form of document.querySelectorAll("form.passkey")) {
    form.addEventListener("submit", (event) => {
      const button = event.submitter;
      if (!form.querySelector(".proof[data-passkeys]") || (button && button.value === "deny")) return;
      if (form.querySelector("[name=code]").value.trim()) return;
      event.preventDefault();
      form.setAttribute("aria-busy", "true");
      prove(form)
        .then(() => form.requestSubmit(button))
        .catch((error) => failed(form, error));
    });
  }
}
