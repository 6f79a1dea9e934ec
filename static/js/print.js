// Without JavaScript there is no print button, and the browser's own menu prints the same.
(() => {
  const button = document.getElementById('print')
  button.hidden = false
  button.addEventListener('click', () => window.print())
})()
