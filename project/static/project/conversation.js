// The conversation, stored in the browser for all of its tabs: the questions, and the ids of the answers. Each user has
// their own; a conversation from before the login is kept.
"use strict";

// A turn is {key, question, attempt, state, generation, from, text, error, finish_reason}. Its state is "asking" until the
// server has accepted the question, "unsent" if it was refused, "answering", and then the final state of the answer.
// `attempt` is the idempotency key, and `from` is the generation to regenerate, or null.
const ANONYMOUS_KEY = "streams.chat";
const user = document.getElementById("chat").dataset.user;

const Conversation = {
  KEY: user ? `${ANONYMOUS_KEY}.${user}` : ANONYMOUS_KEY,
  isKept: true,
  fallback: null, // used if the browser does not allow storage

  // Always read the storage, because another tab might have changed it.
  read() {
    let kept = null;
    try {
      const before = user && localStorage.getItem(ANONYMOUS_KEY);
      if (before) {
        if (!localStorage.getItem(this.KEY)) localStorage.setItem(this.KEY, before);
        localStorage.removeItem(ANONYMOUS_KEY);
      }
      kept = localStorage.getItem(this.KEY);
    } catch {
      this.isKept = false;
    }
    if (!this.isKept) return this.fallback ?? { turns: [], former: [] };
    try {
      const { turns, former } = JSON.parse(kept);
      if (Array.isArray(turns) && Array.isArray(former)) return { turns, former };
    } catch {
      // nothing is stored, or it is not valid
    }
    return { turns: [], former: [] };
  },

  write(conversation) {
    this.fallback = conversation;
    try {
      if (this.isKept) localStorage.setItem(this.KEY, JSON.stringify(conversation));
    } catch {
      this.isKept = false;
    }
  },

  turns() {
    return this.read().turns;
  },

  add(turn) {
    const { turns, former } = this.read();
    this.write({ turns: [...turns, turn], former });
  },

  turn(key) {
    return this.turns().find((turn) => turn.key === key);
  },

  change(key, changes) {
    const { turns, former } = this.read();
    this.write({ turns: turns.map((turn) => (turn.key === key ? { ...turn, ...changes } : turn)), former });
  },

  begin() {
    this.write({ turns: [], former: this.read().turns });
  },

  restore() {
    this.write({ turns: this.read().former, former: [] });
  },
};
