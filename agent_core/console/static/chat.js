// The chat without page loads: sends the form's message to the API and shows the answer while it is written. Without
// this script the form does the same by itself. Nothing a model or tool writes is ever parsed as HTML here: streamed
// words are set as text, finished messages come from the server, which renders and escapes them.
/* global localTimes */
"use strict";

(() => {
  const form = document.getElementById("composer");
  const log = document.getElementById("log");
  const status = document.getElementById("status");
  const title = document.querySelector("h1");
  const words = document.getElementById("words").dataset;
  const box = form.elements.text;
  const button = form.querySelector("button");
  const touch = matchMedia("(pointer: coarse)").matches;
  let busy = false;
  let pending = null; // what was sent under which key, so that sending it again after a fault makes no second message

  // Showing

  const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 120;
  const toEnd = () => scrollTo(0, document.documentElement.scrollHeight);

  function show(change) {
    const follow = atEnd();
    const made = change();
    if (follow) toEnd();
    return made;
  }

  function add(name, fill) {
    return show(() => {
      const item = document.getElementById(name).content.firstElementChild.cloneNode(true);
      fill(item);
      log.append(item);
      return item;
    });
  }

  const put = (item, selector, text) => { item.querySelector(selector).textContent = text; };

  function indented(text) {
    try {
      return JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      return text;
    }
  }

  function fail(title, detail) {
    add("failure-item", (item) => {
      put(item, "strong", title);
      put(item, ".detail", detail);
    });
  }

  function setBusy(on, text) {
    busy = on;
    button.setAttribute("aria-disabled", String(on));
    say(text, on);
  }

  // That an answer is complete is seen; who listens to the page must be told.
  function say(text, visibly) {
    status.classList.toggle("hidden", !visibly);
    status.textContent = text;
  }

  // The empty page has become a conversation.
  function begin(text) {
    if (!title.classList.contains("fresh")) return;
    title.className = "quiet";
    title.textContent = text.length > 80 ? `${text.slice(0, 79)}…` : text;
    document.title = document.title.replace(/^.*·/, () => `${title.textContent} ·`);
    document.querySelector("nav [aria-current]")?.removeAttribute("aria-current");
    for (const part of document.querySelectorAll(".lead, .choice")) part.hidden = true;
  }

  // The events of one answer

  class Answer {
    constructor() {
      this.words = null;
      this.thoughts = null;
      this.tools = new Map();
      this.over = false; // the last event has come
      this.waiting = false; // for a person's decision
    }

    handle(type, data) {
      const handler = this[`on_${type}`];
      if (handler) handler.call(this, data);
    }

    on_run(run) {
      // With the run in it, the address shows after a reload that the answer is on its way.
      history.replaceState(null, "", `${form.dataset.page}?run=${encodeURIComponent(run.run_id)}`);
    }

    on_text({ text }) {
      this.words ??= add("assistant-item", () => {});
      show(() => this.words.querySelector(".text").append(text));
    }

    // Another worker took over and says the step's words anew.
    on_restart() {
      this.words?.remove();
      this.words = null;
    }

    on_reasoning({ text }) {
      this.thoughts ??= add("thinking-item", () => {});
      show(() => this.thoughts.querySelector(".text").append(text));
    }

    on_tool_call(call) {
      this.endWords();
      const item = add("tool-item", (made) => {
        put(made, "code", call.name);
        put(made, ".arguments", indented(call.arguments ?? "{}"));
      });
      this.tools.set(call.id, item);
    }

    on_tool_result(result) {
      const item = this.tools.get(result.call_id);
      if (!item) return;
      const state = result.error ? "failed" : "done";
      item.dataset.state = state;
      put(item, ".state", result.error ? words.toolFailed : words.toolDone);
      put(item, ".result", result.content);
      item.querySelector(".outcome").hidden = false;
    }

    on_waiting(run) {
      this.over = this.waiting = true;
      add("waiting-item", (item) => {
        item.querySelector("a").href = form.dataset.run.replace("RUN", encodeURIComponent(run.run_id));
      });
    }

    on_reply() {
      this.over = true;
    }

    on_error(data) {
      this.over = true;
      const problem = data.problem ?? {};
      fail(problem.title ?? words.failed, problem.detail ?? "");
    }

    endWords() {
      this.words?.removeAttribute("aria-busy");
      this.words = null;
      this.thoughts = null;
    }
  }

  // Server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as our API uses them

  async function follow(body, answer) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]);
        const type = fields.find(([name]) => name === "event")?.[1];
        const data = fields.filter(([name]) => name === "data").map(([, text]) => text).join("\n");
        if (type && data) answer.handle(type, JSON.parse(data));
      }
    }
  }

  // Sending

  function newKey() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  // Where a login is needed, what shows that the request is of our page.
  function proof() {
    const token = form.elements.csrf?.value;
    return token ? { "X-CSRF-Token": token } : {};
  }

  function request(text) {
    const agent = form.elements.agent?.value || undefined;
    const body = JSON.stringify({ message: text, session_id: form.dataset.session, agent, stream: true });
    if (pending?.body !== body) pending = { body, key: newKey() };
    return fetch(form.dataset.api, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream", "Idempotency-Key": `"${pending.key}"`, ...proof() },
      body,
    });
  }

  async function send(text) {
    const mine = add("user-item", (item) => put(item, ".text", text));
    begin(text);
    box.value = "";
    toEnd();
    setBusy(true, words.answering);
    const answer = new Answer();
    let accepted = false;
    try {
      const response = await request(text);
      if (!response.ok) {
        const problem = await response.json();
        mine.remove();
        box.value = text;
        fail(words.notSent, problem.detail || problem.title);
        pending = null;
        setBusy(false, "");
        return;
      }
      accepted = true;
      await follow(response.body, answer);
    } catch {
      if (!accepted) {
        mine.remove();
        box.value = text;
        fail(words.notSent, words.lost);
        setBusy(false, "");
        return;
      }
    }
    answer.endWords();
    pending = null;
    if (!answer.over) {
      fail(words.failed, words.cut);
      setBusy(false, "");
      wait();
      return;
    }
    if (!answer.waiting) {
      history.replaceState(null, "", form.dataset.page);
      await settle(mine);
    }
    setBusy(false, answer.waiting ? "" : words.answered);
  }

  // What was shown while it came is replaced by what is stored: rendered Markdown, times, links to the run.
  async function settle(first) {
    try {
      const response = await fetch(form.dataset.since.replace(/0$/, log.dataset.last));
      if (!response.ok) return;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const stored = page.querySelector("ol");
      if (!stored?.children.length) return;
      localTimes(stored);
      show(() => {
        const open = [...log.querySelectorAll(".tool details")].map((details) => details.open);
        while (first.nextSibling) first.nextSibling.remove();
        first.replaceWith(...stored.children);
        [...log.querySelectorAll(".tool details")].forEach((details, place) => { details.open = open[place] ?? false; });
      });
      log.dataset.last = stored.dataset.last;
    } catch {
      // The words stay as they were streamed; a reload shows them as they are stored.
    }
  }

  // An answer that is written elsewhere: look again until it is there.
  function wait(pause = 1000) {
    setTimeout(async () => {
      if (busy) return;
      try {
        const response = await fetch(location.href);
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        const stored = page.getElementById("log");
        if (response.ok && stored && !("working" in stored.dataset)) {
          localTimes(stored);
          const waiting = page.querySelector("main > .waiting");
          show(() => {
            log.replaceChildren(...stored.children);
            if (waiting) log.after(waiting);
          });
          log.dataset.last = stored.dataset.last;
          if (!waiting) history.replaceState(null, "", form.dataset.page);
          say(waiting ? "" : words.answered, false);
          return;
        }
      } catch {
        // No connection now; there may be one the next time.
      }
      wait(Math.min(pause * 1.5, 10000));
    }, pause);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = box.value.trim();
    if (text && !busy) send(text);
  });

  // Enter that ends the input of a Chinese word must not send; on a phone Enter is the only way to a new line.
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229 || touch) return;
    event.preventDefault();
    form.requestSubmit();
  });

  document.getElementById("hint").hidden = touch;
  if ("working" in log.dataset) wait();
  if (log.children.length && location.hash === "#latest") toEnd();
})();
