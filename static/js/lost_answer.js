// When the answer to a form is lost, the page asks what became of it, and shows the truth.
//
// A form says where to ask (data-ask) and what is being found out (data-asking). Nothing is sent
// again by itself: when nothing was done the page says so, and the user may press once more. That
// request has the key of the lost one, so that, whichever arrives first, both are one booking.
(() => {
  const PAUSES = [0, 600, 1400, 2500, 5000, 8000] // milliseconds before each question; then the last
  const NONES = 3 // so often in a row, since the lost request may still be on its way
  const AFTERWARDS = 8 // questions more, after it was said that nothing was done
  const FAILURES = 2 // before it is said that the site is away
  const PATIENCE = 20_000 // milliseconds for an answer
  const AWAY = 'The site cannot be reached at the moment. We go on asking: you can leave this page open.'

  const box = document.getElementById('lost-answer')
  const [status, alert] = box.children
  let lost = null // what is being found out: {place, ask, asking, button, kept}
  let turn = 0 // of the questions: those of an older turn are of no interest any more
  let wake = () => {}

  const form = (place) => document.querySelector(`[data-ask][data-place="${place}"], [data-ask][action="${place}"]`)
  const stored = (place) => `unanswered ${place}`

  function say(text, isFinal = false) {
    if (status.textContent !== (isFinal ? '' : text)) status.textContent = isFinal ? '' : text
    if (alert.textContent !== (isFinal ? text : '')) alert.textContent = isFinal ? text : ''
    box.classList.toggle('is-asking', !isFinal && text !== '')
  }

  function pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds * (0.8 + 0.4 * Math.random())) // not all at once
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  async function question({ ask, kept }) {
    const url = new URL(ask, window.location.href)
    if (kept.key) {
      url.searchParams.set('key', kept.key)
      // What was asked for, since a form may have been used before, for something else.
      for (const seat of kept.seats) url.searchParams.append('seat', seat)
      if (kept.quantity) url.searchParams.set('quantity', kept.quantity)
    }
    try {
      const options = { headers: { Accept: 'application/json' }, cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) }
      const answer = await fetch(url, options)
      if (answer.ok) return await answer.json()
      if (answer.status === 404) return { outcome: 'done', url: window.location.href } // it says why
    } catch {
      // cut off again, or what came was no JSON
    }
    return { outcome: 'away' }
  }

  async function findOut() {
    const mine = ++turn
    let nones = 0
    let failures = 0
    say(lost.asking)
    for (let asked = 0; nones < NONES + AFTERWARDS; asked++) {
      await pause(PAUSES[Math.min(nones < NONES ? asked : PAUSES.length, PAUSES.length - 1)])
      if (mine !== turn) return
      const { outcome, url, says } = await question(lost)
      if (mine !== turn) return
      nones = outcome === 'none' ? nones + 1 : nones >= NONES ? nones : 0
      failures = outcome === 'away' ? failures + 1 : 0
      if (outcome === 'done') {
        answered(lost.place)
        window.location.assign(url)
        return
      }
      if (nones >= NONES) {
        if (alert.textContent !== says && outcome === 'none') notDone(says)
      } else if (failures >= FAILURES) {
        say(AWAY)
      } else if (!failures) {
        say(lost.asking)
      }
    }
  }

  function notDone(says) {
    say(says, true)
    const here = form(lost.place)
    if (lost.kept.isOld) keepChoice(here)
    const refresh = here?.dataset.refresh
    if (refresh) window.htmx.ajax('get', here.dataset.url, { target: refresh, select: refresh, swap: 'outerHTML' })
    const button = document.getElementById(lost.button)
    if (button && [document.body, button].includes(document.activeElement)) button.focus({ preventScroll: true })
    box.scrollIntoView({ block: 'nearest' })
  }

  // What was chosen, where the page has been loaded anew meanwhile.
  function keepChoice(here) {
    for (const value of lost.kept.seats) {
      const seat = here?.querySelector(`input[name="seat"][value="${CSS.escape(value)}"]`)
      if (seat && !seat.checked) {
        seat.checked = true
        seat.dispatchEvent(new Event('change', { bubbles: true }))
      }
    }
    const quantity = here?.querySelector('input[type="number"][name="quantity"]')
    if (quantity && lost.kept.quantity) quantity.value = lost.kept.quantity
  }

  function answered(place) {
    sessionStorage.removeItem(stored(place))
    turn++
    lost = null
    say('')
  }

  const isAsking = () => lost !== null && alert.textContent === ''

  document.addEventListener('htmx:configRequest', ({ detail }) => {
    if (detail.verb !== 'post') return
    detail.timeout ||= PATIENCE
    // Once more what was lost: the same request, and so the same booking.
    if (lost?.place === detail.path && lost.kept.key) detail.parameters.key = lost.kept.key
  })

  document.addEventListener('htmx:beforeRequest', (event) => {
    if (event.detail.requestConfig.verb === 'post' && isAsking()) event.preventDefault()
  })

  document.addEventListener('htmx:beforeSend', ({ detail: { xhr, elt, requestConfig } }) => {
    const here = elt.closest('[data-ask]')
    if (requestConfig.verb !== 'post' || !here) return
    const parameters = requestConfig.parameters
    const sent = {
      place: requestConfig.path,
      ask: here.dataset.ask,
      asking: here.dataset.asking,
      button: (requestConfig.triggeringEvent?.submitter || elt.querySelector?.('[type="submit"]') || elt).id,
      kept: { key: parameters.key, seats: [parameters.seat ?? []].flat(), quantity: parameters.quantity },
    }
    answered(sent.place)
    // Known to this tab, should the page go before the answer comes.
    if (sent.kept.key) sessionStorage.setItem(stored(sent.place), JSON.stringify(sent))
    const begin = () => {
      lost = sent
      findOut()
    }
    // At the request itself: what htmx tells of it is lost when the form has been replaced meanwhile.
    xhr.addEventListener('load', () => (xhr.status >= 500 ? begin() : answered(sent.place)))
    xhr.addEventListener('error', begin)
    xhr.addEventListener('timeout', begin)
  })

  window.addEventListener('online', () => wake())
  document.addEventListener('visibilitychange', () => document.hidden || wake())

  // The page was reloaded, or left and found again, before the answer came.
  window.addEventListener('pageshow', () => {
    const here = document.querySelector('form[data-ask]')
    const left = here && sessionStorage.getItem(stored(here.getAttribute('action')))
    if (!left || lost) return
    lost = JSON.parse(left)
    lost.kept.isOld = true
    findOut()
  })
})()
