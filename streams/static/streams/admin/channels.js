// The page of a channel: hides the inputs that do not apply to the current choices.
"use strict";

{
  const show = () => {
    document.getElementById("groups").hidden = document.getElementById("id_access").value !== "groups";
    document.getElementById("other-seconds").hidden = document.getElementById("id_keep").value !== "other";
  };
  document.getElementById("settings").addEventListener("change", show);
  show();
}
