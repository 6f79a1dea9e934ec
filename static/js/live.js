// The page changes by itself: by a stream of news while there is one, else by asking now and then.
//
// What changes is the one element with `data-stream`, the address of its news; it fetches itself
// when told "news" (its `hx-trigger`). Its `data-seen`, where it has one, says to the stream and to
// whom it asks what it shows. The stream sends `beat` every now and then; `seats` and `left`, which
// htmx puts in their places; and `stale`: fetch what is yours.
(() => {
  const SECOND = 1000
  const FIRST_BEAT_WITHIN = 10 * SECOND // or something on the way keeps the stream back
  const BEATS_WITHIN = 40 * SECOND // the server sends one every 15
  const BACK_AFTER = 2 * SECOND // once a stream that lived was lost
  const BACK_AFTER_REFUSALS = [30 * SECOND, 300 * SECOND] // doubling from the first to the second
  const SOON = SECOND / 2
  const GAP = SECOND // between two questions
  const SPREAD = SECOND / 4 // thousands who are told at once do not ask at once
  const SPREAD_OF_OPENING = 1.5 * SECOND
  const FAILURES_BEFORE_SAYING_SO = 3

  const sign = document.getElementById('live')
  const shown = () => document.querySelector('[data-stream]')
  const pollEvery = () => Number(shown().dataset.poll) * SECOND
  // To this browser's other tabs, whose streams may be older than the name by which it holds seats.
  const tabs = new BroadcastChannel('holdfast')
  const about = (time) => time * (0.8 + Math.random() * 0.4)

  let stream = null // the element by which htmx listens
  let source = null // its connection …
  let address = '' // … and where that leads
  let opened = 0
  let hasBeenOpen = false
  let openAt = Infinity
  let heard = 0 // when the last beat came; 0: this connection has sent none yet
  let refusals = 0 // connections in a row that never sent one
  let asked = 0
  let askAt = Infinity
  let pollAt = Infinity
  let isAsking = false
  let mustAskAgain = false
  let etag = '' // of the last answer, if nothing has changed it since
  let failures = 0

  // The stream.

  window.htmx.createEventSource = (url) => {
    source = new EventSource(url)
    // Ahead of the extension's, which would try again with what was seen at first, and when refused.
    source.addEventListener('error', (event) => {
      event.stopImmediatePropagation()
      lose()
    })
    source.addEventListener('beat', beat)
    source.addEventListener('stale', () => askWithin(spread()))
    return source
  }

  function open() {
    close()
    if (document.hidden || !shown()) return
    address = shown().dataset.stream
    if (!address) return
    const url = new URL(address, window.location.href)
    if (shown().dataset.seen) url.searchParams.set('seen', shown().dataset.seen)
    stream = document.getElementById('live-stream').content.firstElementChild.cloneNode(true)
    stream.setAttribute('sse-connect', url.pathname + url.search)
    opened = Date.now()
    sign.after(stream)
    window.htmx.process(stream)
  }

  function close() {
    source?.close()
    stream?.remove()
    source = stream = null
    openAt = Infinity
    heard = 0
  }

  function lose() {
    const [first, last] = BACK_AFTER_REFUSALS
    const pause = heard ? BACK_AFTER : Math.min(first * 2 ** refusals++, last)
    close()
    openAt = Date.now() + about(pause)
    askWithin(GAP)
    paint()
  }

  function beat() {
    if (!heard) {
      refusals = failures = 0
      pollAt = Infinity
      document.dispatchEvent(new Event('live'))
      // Only what says what it shows is told what has changed since.
      if (hasBeenOpen && !shown().dataset.seen) askWithin(SPREAD)
      hasBeenOpen = true
    }
    heard = Date.now()
    paint()
  }

  document.addEventListener('htmx:sseMessage', ({ detail }) => {
    mustAskAgain = isAsking // the answer may be older than this
    if (shown().dataset.seen) shown().dataset.seen = detail.lastEventId
    etag = ''
  })

  // Seats that look alike come as one of them, and which they are.
  window.htmx.defineExtension('alike', {
    transformResponse: (html) =>
      html.replace(/<template data-seats=",([\d,]+),">(.*?)<\/template>/g, (_, pks, seat) =>
        pks.split(',').map((pk) => draw(seat, pk)).join(''),
      ),
  })

  function draw(seat, pk) {
    const label = document.getElementById(`seat-${pk}`)?.dataset.seat ?? ''
    const text = label.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt()};`)
    return seat.replaceAll('{pk}', pk).replaceAll('{label}', () => text)
  }

  // Asking.

  function spread() {
    if (shown()?.dataset.phase === 'not_yet') return SPREAD_OF_OPENING
    return Date.now() - opened < SECOND ? 0 : SPREAD // connections begin at different times anyway
  }

  function askWithin(time) {
    askAt = Math.min(askAt, Math.max(Date.now() + Math.random() * time, asked + GAP))
    setTimeout(tick, askAt - Date.now())
  }

  function ask() {
    asked = Date.now()
    askAt = Infinity
    pollAt = heard ? Infinity : asked + about(pollEvery())
    if (isAsking) mustAskAgain = true
    else window.htmx.trigger(shown(), 'news')
  }

  const isNews = (config) => config.triggeringEvent?.type === 'news'

  document.addEventListener('htmx:configRequest', ({ detail }) => {
    if (!isNews(detail)) return
    const seen = shown().dataset.seen
    if (seen || etag) detail.headers['If-None-Match'] = seen ? `"${seen}"` : etag
  })

  document.addEventListener('htmx:beforeRequest', ({ detail }) => {
    if (isNews(detail.requestConfig)) isAsking = true
  })

  document.addEventListener('htmx:afterRequest', ({ detail }) => {
    const { status } = detail.xhr
    const isAnswer = status >= 200 && status < 400
    if (isNews(detail.requestConfig)) {
      isAsking = false
      failures = isAnswer ? 0 : failures + 1
      if (status === 200) etag = detail.xhr.getResponseHeader('ETag') || ''
      if (mustAskAgain || (heard && !isAnswer)) askWithin(GAP)
      mustAskAgain = false
    } else if (detail.requestConfig.verb !== 'get') {
      if (isAnswer) tabs.postMessage('held')
      else if (status !== 409) askWithin(GAP) // news had to stand back behind it
    }
    if (stream && shown()?.dataset.stream !== address) open()
    paint()
  })

  // What is due is done.

  function tick() {
    const now = Date.now()
    if (document.hidden || !shown()) return
    if (heard ? now - heard > BEATS_WITHIN : source && now - opened > FIRST_BEAT_WITHIN) lose()
    if (now >= openAt) open()
    if (now >= askAt || now >= pollAt) ask()
  }

  function wake() {
    if (document.hidden || !shown()) return
    refusals = 0
    open()
    // Whether or not there is a stream to be had, what one sees is right at once.
    setTimeout(() => heard || askWithin(0), SOON)
    pollAt = Date.now() + about(pollEvery())
  }

  function sleep() {
    close()
    askAt = pollAt = Infinity
    paint()
  }

  document.addEventListener('visibilitychange', () => (document.hidden ? sleep() : wake()))
  window.addEventListener('pagehide', sleep)
  window.addEventListener('pageshow', ({ persisted }) => persisted && wake())
  window.addEventListener('online', wake)
  tabs.addEventListener('message', () => {
    wake()
    askWithin(0)
  })
  setInterval(tick, SECOND)

  // The sign.

  function paint() {
    let state = 'opening'
    if (!shown()) state = 'over'
    else if (heard) state = 'live'
    else if (failures >= FAILURES_BEFORE_SAYING_SO) state = 'lost'
    else if (!source) state = 'polling'
    if (sign.dataset.state === state) return
    sign.dataset.state = state
    sign.hidden = state === 'over'
    sign.textContent = sign.dataset[state] || ''
  }

  open()
  if (shown()) pollAt = Date.now() + about(pollEvery())
  paint()
})()
