// How long the hold lasts: counted from what the server said, whatever clock the computer shows.
(() => {
  const SAY_AT = [30, 10] // seconds left
  const says = () => document.getElementById('countdown-says')
  let ends = 0
  let started = 0
  let startedMonotonic = 0
  let said = new Set()
  let isOver = false

  const box = () => document.getElementById('countdown')

  // The monotonic clock stands still while a laptop sleeps, the other one may be set: the later counts.
  function elapsed() {
    return Math.max(Date.now() - started, performance.now() - startedMonotonic) / 1000
  }

  function start(isExtended) {
    ends = Number(box().dataset.secondsLeft)
    started = Date.now()
    startedMonotonic = performance.now()
    said = new Set(SAY_AT.filter((seconds) => seconds >= ends))
    if (isExtended) says().textContent = `You have ${spoken(ends)} now.`
    tick()
  }

  function spoken(exact) {
    const seconds = Math.round(exact)
    const minutes = Math.floor(seconds / 60)
    const rest = seconds % 60
    const parts = []
    if (minutes) parts.push(minutes === 1 ? '1 minute' : `${minutes} minutes`)
    if (rest || !minutes) parts.push(rest === 1 ? '1 second' : `${rest} seconds`)
    return parts.join(' ')
  }

  function tick() {
    if (!box()) return // it has ended, and the page says so
    const left = Math.max(0, ends - elapsed())
    const whole = Math.floor(left)
    document.getElementById('clock').textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`
    document.getElementById('countdown-bar').value = left
    box().classList.toggle('is-short', left <= SAY_AT[0])
    const due = SAY_AT.filter((seconds) => left <= seconds && !said.has(seconds))
    if (due.length && left > 0) {
      due.forEach((seconds) => said.add(seconds))
      says().textContent = `${Math.ceil(left)} seconds left.`
    }
    if (left === 0 && !isOver) {
      isOver = true
      says().textContent = 'The time is over.'
      // By then the database agrees, and the page says what has become of the seats.
      setTimeout(() => window.location.replace(box().dataset.url), 700)
    }
  }

  document.addEventListener('htmx:afterSwap', ({ detail }) => {
    if (box()) start(detail.target.id === 'countdown')
  })
  document.addEventListener('htmx:responseError', ({ detail }) => {
    // Of what may have been done all the same lost_answer.js tells.
    if (detail.xhr.status < 500) says().textContent = 'That did not work. Please reload the page and try again.'
  })
  document.addEventListener('visibilitychange', tick)
  setInterval(tick, 250)
  start(false)
  says().textContent = `Held for you for ${spoken(ends)}.`
})()
