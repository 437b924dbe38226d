// The field for channels: replaces the text input by a list of names, and an input with suggestions for the next name.
"use strict";

// `onChange()` is called after each change, also while a name is being typed. `onAdd()` is called after names were added.
const createChannelInput = (form, onChange, onAdd) => {
  const SUGGEST_MILLISECONDS = 250;
  const stored = form.elements.channels; // has all names, separated by spaces; this input is submitted
  const split = (written) => written.split(/[\s,]+/).filter(Boolean);
  const names = new Set(split(stored.value));

  const chips = document.createElement("ul");
  chips.className = "chips";
  const input = document.createElement("input");
  const announcement = document.createElement("p");
  announcement.className = "visually-hidden";
  announcement.setAttribute("role", "status");
  Object.assign(input, { type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: false });
  input.setAttribute("list", "known-channels");
  input.setAttribute("aria-describedby", stored.getAttribute("aria-describedby"));
  input.id = stored.id;
  stored.removeAttribute("id");
  stored.type = "hidden";
  stored.after(chips, input, announcement);

  function drawChips() {
    chips.replaceChildren(
      ...[...names].map((name) => {
        const chip = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.className = "plain";
        button.textContent = "×";
        button.setAttribute("aria-label", Streams.text("remove", { name }));
        button.addEventListener("click", () => {
          remove(name);
          input.focus();
        });
        const label = document.createElement("span");
        Streams.show(label, name);
        chip.append(label, button);
        return chip;
      }),
    );
    chips.hidden = names.size === 0;
  }

  // Include a name that is still in the input, because the user might submit the form without pressing Enter.
  function store() {
    stored.value = [...new Set([...names, ...split(input.value)])].join(" ");
  }

  function change() {
    drawChips();
    store();
    onChange();
  }

  function remove(name) {
    names.delete(name);
    announcement.textContent = Streams.text("removed", { name });
    change();
  }

  // Move the typed names from the input to the list.
  function addTyped() {
    const typed = split(input.value);
    if (!typed.length) return;
    typed.forEach((name) => names.add(name));
    input.value = "";
    announcement.textContent = Streams.text("added", { name: typed.join(" ") });
    change();
    onAdd();
  }

  function replace(name, other) {
    addTyped();
    names.delete(name);
    names.add(other);
    announcement.textContent = Streams.text("added", { name: other });
    change();
    onAdd();
    input.focus();
  }

  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // the input method uses these keys
    if (event.key === "Enter" || event.key === "," || event.key === " ") {
      if (event.key !== "Enter" || input.value.trim()) event.preventDefault();
      addTyped();
    } else if (event.key === "Backspace" && !input.value && names.size) {
      remove([...names].pop());
    }
  });
  input.addEventListener("input", (event) => {
    event.stopPropagation();
    // A suggestion was chosen. Typed text is not added when the input loses the focus: the buttons below would move away
    // under the pointer that is about to click on them.
    if (event.inputType === "insertReplacementText") return addTyped();
    store();
    suggest();
    onChange();
  });

  let suggestTimer = null;
  function suggest() {
    clearTimeout(suggestTimer);
    suggestTimer = setTimeout(async () => {
      const query = new URLSearchParams({ q: input.value.trim() });
      const { ok, data } = await Streams.fetchJSON(`${form.dataset.known}?${query}`);
      if (!ok) return;
      document.getElementById("known-channels").replaceChildren(
        ...data.channels
          .filter((name) => !names.has(name))
          .map((name) => Object.assign(document.createElement("option"), { value: name })),
      );
    }, SUGGEST_MILLISECONDS);
  }

  drawChips();
  store();
  return {
    input,
    chips,
    store,
    replace,
    names: () => split(stored.value),
    // False while the name is still being typed.
    isComplete: (name) => names.has(name) || document.activeElement !== input,
  };
};
