// The conversation, as this browser keeps it for all of its tabs: what was asked, and where the answers are. Each user who
// logs in here has one; what was asked before goes along.
"use strict";

// A turn is {key, question, attempt, state, generation, from, text, error, finish_reason}. Its state is "asking" until the
// server has taken the question, "unsent" where it has not, "answering", and then that of the answer's end. `attempt` is
// the idempotency key of the asking, and `from` the generation that is to be made anew, or null.
const NOBODY = "streams.chat";
const user = document.getElementById("chat").dataset.user;

const Conversation = {
  KEY: user ? `${NOBODY}.${user}` : NOBODY,
  isKept: true,
  fallback: null, // where the browser keeps nothing

  // Always from the storage: another tab may have changed it a moment ago.
  read() {
    let kept = null;
    try {
      const before = user && localStorage.getItem(NOBODY);
      if (before) {
        if (!localStorage.getItem(this.KEY)) localStorage.setItem(this.KEY, before);
        localStorage.removeItem(NOBODY);
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
      // none, or not ours
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
