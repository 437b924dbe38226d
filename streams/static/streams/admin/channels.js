// The page of a channel: shows those inputs alone that the choices above them ask for.
"use strict";

{
  const show = () => {
    document.getElementById("groups").hidden = document.getElementById("id_access").value !== "groups";
    document.getElementById("other-seconds").hidden = document.getElementById("id_keep").value !== "other";
  };
  document.getElementById("settings").addEventListener("change", show);
  show();
}
