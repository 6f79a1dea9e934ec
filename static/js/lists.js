// A fresh list takes the place of the old one, and the focus stays where it was.
(() => {
  const list = () => document.getElementById('results')
  const stops = () => [...list().querySelectorAll('a[href], button, input')]
  let focused = null

  // What is asked for goes before news: a list that news have exchanged meanwhile would not get it.
  let asked = 0
  document.addEventListener('htmx:beforeRequest', (event) => {
    const { elt, target } = event.detail
    if (target?.id !== 'results') return
    if (elt.id === 'results') {
      if (asked) event.preventDefault()
    } else {
      asked += 1
      window.htmx.trigger(list(), 'htmx:abort')
    }
  })
  document.addEventListener('htmx:afterRequest', ({ detail }) => {
    if (detail.target?.id === 'results' && detail.elt.id !== 'results') asked = Math.max(0, asked - 1)
  })

  document.addEventListener('htmx:beforeSwap', ({ detail }) => {
    const at = stops().indexOf(document.activeElement)
    if (detail.shouldSwap && at >= 0) focused = { at, href: document.activeElement.href }
  })

  document.addEventListener('htmx:afterSwap', () => {
    if (!focused) return
    const { at, href } = focused
    focused = null
    const all = stops()
    const stop = all.find((one) => one.href === href) || all[Math.min(at, all.length - 1)] || list()
    if (stop === list()) stop.tabIndex = -1
    stop.focus({ preventScroll: true })
  })
})()
