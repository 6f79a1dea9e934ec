// The API's interactive documentation: Swagger UI, as the user who is logged in, in the colours of the
// system.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", paint);
  paint();

  const root = document.getElementById("swagger-ui");
  const csrfToken = root.dataset.csrfToken;
  SwaggerUIBundle({
    ...JSON.parse(document.getElementById("swagger-settings").textContent),
    domNode: root,
    requestInterceptor(request) {
      // Under whatever name one has come here, that is where requests go.
      const url = new URL(request.url, location.href);
      request.url = location.origin + url.pathname + url.search;
      if (csrfToken) request.headers["X-CSRFToken"] = csrfToken;
      return request;
    },
  });
})();
