// Starts Swagger UI on the API's page. See streams/templates/streams/api/docs.html.
"use strict";

const { csrfHeader, csrfToken } = document.getElementById("swagger-ui").dataset;

// Swagger UI follows the browser's dark mode only in its standalone layout, which needs inline styles.
document.documentElement.classList.toggle("dark-mode", matchMedia("(prefers-color-scheme: dark)").matches);

SwaggerUIBundle({
  url: "../schema/",
  dom_id: "#swagger-ui",
  deepLinking: true,
  requestInterceptor(request) {
    // For requests that the browser authenticates with its session.
    if (request.method && request.method !== "GET") request.headers[csrfHeader] = csrfToken;
    return request;
  },
});
