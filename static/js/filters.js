// The list follows what is typed; when nothing gets through, it says so.
(() => {
  const FAILED = 'That did not work. Press “Search” to try again.'

  const say = ({ detail }) => {
    if (detail.elt.id !== 'filters') return
    document.getElementById('found').textContent = FAILED
  }
  document.addEventListener('htmx:responseError', say)
  document.addEventListener('htmx:sendError', say)
})()
