// The API's interactive documentation: Swagger UI, as the user who is logged in, in the colours of the
// system.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", paint);
  paint();

  const root = document.getElementById("swagger-ui");
  const csrfToken = root.dataset.csrfToken;
  const settings = JSON.parse(document.getElementById("swagger-settings").textContent);

  // Of the ways to say who one is only the token is asked for: a session and its CSRF token are
  // sent by themselves, and no script may set a cookie.
  const withTokensOnly = (text) => {
    const described = JSON.parse(text);
    const schemes = described.components.securitySchemes;
    described.components.securitySchemes = { Bearer: schemes.Bearer };
    for (const operation of Object.values(described.paths).flatMap(Object.values)) {
      operation.security &&= operation.security.filter((one) => !("Session" in one));
    }
    return JSON.stringify(described);
  };

  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape") root.querySelector(".dialog-ux .close-modal")?.click();
  });

  SwaggerUIBundle({
    ...settings,
    domNode: root,
    responseInterceptor(response) {
      const { pathname } = new URL(response.url, location.href);
      if (response.ok && pathname === settings.url) response.text = withTokensOnly(response.text);
      return response;
    },
    requestInterceptor(request) {
      // Under whatever name one has come here, that is where requests go.
      const url = new URL(request.url, location.href);
      request.url = location.origin + url.pathname + url.search;
      if (csrfToken) request.headers["X-CSRFToken"] = csrfToken;
      return request;
    },
  });
})();
