// Choosing seats: the sum, the limit, the arrow keys; and the choice survives a fresh plan.
(() => {
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

  const notice = document.getElementById('seat-notice')
  const grid = () => document.getElementById('seat-grid')
  const seats = () => [...grid().querySelectorAll('input[name="seat"]')]
  const key = () => grid().querySelector('input[name="key"]')
  const label = (seat) => seat.parentElement.dataset.seat
  let current = '' // the seat that Tab leads to

  function list(labels) {
    if (labels.length < 2) return labels.join('')
    return `${labels.slice(0, -1).join(', ')} and ${labels.at(-1)}`
  }

  function sum() {
    const picked = document.getElementById('picked')
    if (!picked) return
    const labels = seats().filter((seat) => seat.checked).map(label)
    let text = picked.dataset.prompt
    if (labels.length) text = `${labels.length} ${labels.length === 1 ? 'seat' : 'seats'}: ${labels.join(', ')}`
    if (picked.textContent !== text) picked.textContent = text
  }

  // With the last place the button goes, and comes back with the first. What is left of each kind is
  // counted on the plan: whose seats these are, news for everybody do not know.
  function count() {
    const left = document.getElementById('seat-count')
    if (!left) return
    const available = Number(left.dataset.available)
    for (const id of ['pick-bar', 'places']) {
      const part = document.getElementById(id)
      if (!part || part.hidden === !available) continue
      const hadFocus = part.contains(document.activeElement)
      part.hidden = !available
      if (hadFocus && part.hidden) rest()
    }
    const number = document.getElementById('quantity')
    if (number) number.max = Math.max(1, Math.min(grid().dataset.most, available))
    for (const one of document.querySelectorAll('#legend [data-count]')) {
      const text = String(document.querySelectorAll(`#hall-scroll [data-state="${one.dataset.count}"]`).length)
      if (one.textContent !== text) one.textContent = text
    }
  }

  // Where the focus goes when what had it is gone.
  function rest() {
    const place = document.getElementById('hall-scroll') || grid()
    if (!place.hasAttribute('tabindex')) place.tabIndex = -1
    place.focus({ preventScroll: true })
  }

  // Of all seats only one is a stop of the Tab key; the arrows lead on from there.
  function rove() {
    const all = seats()
    const stop = all.find((seat) => seat.value === current) || all.find((seat) => seat.checked) || all[0]
    for (const seat of all) {
      const order = seat === stop ? 0 : -1
      if (seat.tabIndex !== order) seat.tabIndex = order
    }
    // What scrolls can be reached by the Tab key, if nothing in it can.
    const hall = document.getElementById('hall-scroll')
    if (stop) hall.removeAttribute('tabindex')
    else if (hall) hall.tabIndex = 0
  }

  function middle(seat) {
    const box = seat.getBoundingClientRect()
    return { x: box.left + box.width / 2, y: box.top + box.height / 2 }
  }

  function nearest({ x, y }) {
    let best = null
    let least = Infinity
    for (const seat of seats()) {
      const at = middle(seat)
      const distance = Math.hypot(at.x - x, at.y - y)
      if (distance < least) [best, least] = [seat, distance]
    }
    return best
  }

  // The nearest free seat in that direction: along the row, or in the next row that has one.
  function neighbour(from, [dx, dy]) {
    const at = middle(from)
    let best = null
    let least = Infinity
    for (const seat of seats()) {
      const { x, y } = middle(seat)
      const along = dx ? (x - at.x) * dx : (y - at.y) * dy
      const aside = dx ? Math.abs(y - at.y) : Math.abs(x - at.x)
      if (seat === from || along < 4 || (dx && aside > 4)) continue
      const distance = dx ? along : along * 1000 + aside
      if (distance < least) [best, least] = [seat, distance]
    }
    return best
  }

  function edge(from, last) {
    const y = middle(from).y
    const row = seats().filter((seat) => Math.abs(middle(seat).y - y) < 4)
    return row.at(last ? -1 : 0)
  }

  document.addEventListener('change', ({ target }) => {
    if (target.name !== 'seat') return
    const most = Number(grid().dataset.most)
    notice.textContent = ''
    if (seats().filter((seat) => seat.checked).length > most) {
      target.checked = false
      notice.textContent = `You can choose up to ${most} seats. To have ${label(target)}, give up another one first.`
    }
    sum()
  })

  document.addEventListener('keydown', (event) => {
    const seat = event.target
    if (seat.name !== 'seat' || event.altKey || event.ctrlKey || event.metaKey) return
    let next = null
    if (ARROWS[event.key]) next = neighbour(seat, ARROWS[event.key])
    else if (event.key === 'Home' || event.key === 'End') next = edge(seat, event.key === 'End')
    else return
    event.preventDefault()
    if (next) next.focus()
  })

  document.addEventListener('focusin', ({ target }) => {
    if (target.name !== 'seat' || target.value === current) return
    current = target.value
    rove()
  })

  function sayLost(labels) {
    if (labels.length) notice.textContent = `${list(labels)} ${labels.length === 1 ? 'has' : 'have'} just been taken.`
  }

  // News of single seats: each takes the place of its element, keeping the choice and the focus.
  let lost = []
  let orphan = null // where the focus was

  document.addEventListener('htmx:oobBeforeSwap', ({ detail }) => {
    const { target, fragment } = detail
    if (!detail.shouldSwap || !target.matches('#hall-scroll .seat')) return
    detail.shouldSwap = false // htmx would tell of each seat once for every further one
    const fresh = fragment.firstElementChild
    const isTaken = ['RESERVED', 'BOOKED'].includes(fresh.dataset.state)
    if (target.dataset.state === 'YOURS' && isTaken) return // as everybody else sees it
    const box = target.querySelector('input')
    if (box?.checked && isTaken) lost.push(label(box))
    if (box === document.activeElement) orphan = middle(box)
    target.replaceWith(fresh)
  })

  document.addEventListener('htmx:sseMessage', () => {
    sayLost(lost)
    count()
    rove()
    if (orphan) {
      const next = nearest(orphan)
      if (next) next.focus({ preventScroll: true })
      else rest()
    }
    lost = []
    orphan = null
    sum()
  })

  // A fresh plan takes the place of the old one: keep what was chosen, the focus and the scrolling.
  let kept = null
  document.addEventListener('htmx:beforeSwap', ({ detail }) => {
    if (detail.target.id !== 'seat-grid' || !detail.shouldSwap) return
    const scroll = document.getElementById('hall-scroll')
    const quantity = document.getElementById('quantity')
    const focused = document.activeElement
    kept = {
      chosen: new Map(seats().filter((seat) => seat.checked).map((seat) => [seat.value, label(seat)])),
      focused: focused.name === 'seat' ? focused.value : '',
      at: focused.name === 'seat' ? middle(focused) : null,
      focusedId: grid().contains(focused) ? focused.id : '',
      left: scroll ? scroll.scrollLeft : 0,
      quantity: quantity ? quantity.value : '',
      key: key()?.value,
      isNews: detail.requestConfig.verb === 'get',
    }
  })

  document.addEventListener('htmx:afterSwap', () => {
    if (!kept) return
    const { chosen, focused, at, focusedId, left, quantity, isNews } = kept
    // News change nothing about what is being sent: twice the same is one booking.
    if (isNews && kept.key && key()) key().value = kept.key
    kept = null
    const all = seats()
    const free = new Map(all.map((seat) => [seat.value, seat]))
    for (const [value] of chosen) if (free.has(value)) free.get(value).checked = true
    const isMine = (value) => document.getElementById(`seat-${value}`)?.dataset.state === 'YOURS'
    const gone = [...chosen].filter(([value]) => !free.has(value) && !isMine(value))
    const taken = gone.map(([, name]) => name)
    if (isNews) {
      sayLost(taken)
    } else {
      notice.textContent = ''
      document.getElementById('refusal')?.scrollIntoView({ block: 'center' })
    }
    const number = document.getElementById('quantity')
    if (number && quantity) number.value = Math.min(Number(quantity), Number(number.max)) || 1
    const scroll = document.getElementById('hall-scroll')
    if (scroll) scroll.scrollLeft = left
    hint()
    rove()
    if (focused || focusedId) {
      const stop = focused ? free.get(focused) || nearest(at) : document.getElementById(focusedId)
      if (stop) stop.focus({ preventScroll: true })
      else rest()
    }
    sum()
  })

  function hint() {
    const hall = document.getElementById('hall-scroll')
    if (hall) document.getElementById('scroll-hint').hidden = hall.scrollWidth <= hall.clientWidth
  }
  window.addEventListener('resize', hint)
  hint()

  // A hall much wider than the screen begins in the middle, where the stage is; others at their edge.
  const hall = document.getElementById('hall-scroll')
  const over = hall ? hall.scrollWidth - hall.clientWidth : 0
  if (over > hall?.clientWidth / 3) hall.scrollLeft = over / 2

  // Back and forward may bring old ticks with them.
  window.addEventListener('pageshow', sum)
  rove()
  sum()
})()
