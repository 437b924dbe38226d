// The conversation, as this browser keeps it for all of its tabs: what was asked, and where the answers are.
"use strict";

// A turn is {key, question, attempt, state, generation, from, text, error, finish_reason}. Its state is "asking" until the
// server has taken the question, "unsent" where it has not, "answering", and then that of the answer's end. `attempt` is
// the idempotency key of the asking, and `from` the generation that is to be made anew, or null.
const Conversation = {
  KEY: "streams.chat",
  isKept: true,
  fallback: null, // where the browser keeps nothing

  // Always from the storage: another tab may have changed it a moment ago.
  read() {
    let kept = null;
    try {
      kept = localStorage.getItem(this.KEY);
    } catch {
      this.isKept = false;
    }
    if (!this.isKept) return this.fallback ?? { turns: [], former: [] };
    try {
      const { turns = [], former = [] } = JSON.parse(kept) ?? {};
      return { turns, former };
    } catch {
      return { turns: [], former: [] }; // not ours
    }
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
