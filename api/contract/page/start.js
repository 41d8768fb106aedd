"use strict";

// A file of its own, so that the page needs no inline script and its Content-Security-Policy allows none.
window.ui = SwaggerUIBundle({
  // Beside the folder that this file is in, whatever a proxy in front has put before both.
  url: new URL("../openapi.json", document.currentScript.src).href,
  dom_id: "#swagger-ui",
  // Without the bar on top, which would load other documents.
  layout: "BaseLayout",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // The badge would send the document's address to a validator elsewhere.
  validatorUrl: null,
});
