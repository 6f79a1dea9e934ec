// What has changed is marked for a moment, and summed up for those who listen: a sentence now and
// then, however much happens.
(() => {
  const FIRST_AFTER = 2000 // milliseconds: changes come in flocks
  const NEXT_AFTER = 8000
  const MARKED = 1600 // at least as long as the animation: nothing flashes
  // What counts, by the first part of its id.
  const WORDS = {
    seat: { names: ['seat', 'seats'], gone: ['was taken', 'were taken'], back: ['is free again', 'are free again'] },
    place: { names: ['place', 'places'], gone: ['was taken', 'were taken'], back: ['is free again', 'are free again'] },
    time: { names: ['time', 'times'], gone: ['was taken', 'were taken'], back: ['is free now', 'are free now'] },
    left: { names: ['date', 'dates'], gone: ['has sold out', 'have sold out'], back: ['has places again', 'have places again'] },
  }
  const COUNTED = '.seat[id], .time[id], .left[id]'
  const PHASES = { open: 'Booking is open now.', closed: 'Booking has closed.', begun: 'Booking has closed.', past: 'This is over.', cancelled: 'This was called off.' }

  const says = document.getElementById('live-says')
  const shown = () => document.querySelector('[data-stream], #seat-grid')
  const changed = new Map() // by id: how it was when the last sentence was said, and how it is
  const marked = new Map() // by id: when
  let said = 0
  let timer = 0

  const stateOf = (element) => element.dataset.state || element.dataset.left || 'free'
  const isFree = (state) => ['AVAILABLE', 'free', 'few', 'many'].includes(state)

  function mark(element) {
    const now = Date.now()
    if (now - (marked.get(element.id) || 0) < MARKED) return
    marked.set(element.id, now)
    element.classList.add('changed')
  }

  function note(id, was, is) {
    if (was === is) return
    if (changed.has(id)) changed.get(id).is = is
    else changed.set(id, { was, is })
    timer ||= setTimeout(say, Math.max(FIRST_AFTER, said + NEXT_AFTER - Date.now()))
  }

  function say() {
    timer = 0
    const text = sentences()
    changed.clear()
    if (!text) return
    said = Date.now()
    says.textContent = text
  }

  function sentences() {
    const phase = changed.get('phase')
    if (phase && phase.was !== phase.is) return PHASES[phase.is] || ''
    const parts = Object.keys(WORDS).map(sum).filter(Boolean)
    const left = document.getElementById('seat-count')?.dataset.available
    const none = document.querySelector('#sold-out strong')?.textContent
    if (parts.length && left !== undefined) parts.push(none || `${left} left.`)
    return parts.join(' ')
  }

  function sum(kind) {
    const { names, gone, back } = WORDS[kind]
    let [less, more] = [0, 0]
    for (const [id, { was, is }] of changed) {
      if (!id.startsWith(`${kind}-`) || [was, is].includes('YOURS')) continue
      if (kind !== 'time' && [was, is].includes(undefined)) continue // another plan, another list
      if (kind === 'place') [less, more] = [Math.max(was - is, 0), Math.max(is - was, 0)]
      else if (isFree(was) && !isFree(is)) less++
      else if (!isFree(was) && isFree(is)) more++
    }
    const one = (number, words) => words[number === 1 ? 0 : 1]
    const parts = []
    if (less) parts.push(`${less} ${one(less, names)} ${one(less, gone)}`)
    if (more) parts.push(`${more}${less ? '' : ` ${one(more, names)}`} ${one(more, back)}`)
    return parts.length ? `${parts.join(', ')}.` : ''
  }

  // Unnumbered places are counted, not named.
  function places(root) {
    const count = root.querySelector('#seat-count')
    return count && !root.querySelector('#hall') ? count.dataset.available : undefined
  }

  document.addEventListener('htmx:oobBeforeSwap', ({ detail }) => {
    const { target, fragment } = detail
    const fresh = fragment.firstElementChild
    if (!fresh) return
    if (target.textContent.trim() === fresh.textContent.trim() && stateOf(target) === stateOf(fresh)) {
      detail.shouldSwap = false
      return
    }
    if (target.id === 'seat-count') {
      if (places(shown())) note('place-s', Number(target.dataset.available), Number(fresh.dataset.available))
    } else if (target.matches(COUNTED)) {
      note(target.id, stateOf(target), stateOf(fresh))
    }
    mark(fresh)
  })

  // The same for what is fetched as a whole.
  let before = null

  function look() {
    const root = shown()
    const states = new Map([...root.querySelectorAll(COUNTED)].map((one) => [one.id, stateOf(one)]))
    return { states, count: root.querySelector('#seat-count')?.textContent, places: places(root), phase: root.dataset.phase }
  }

  document.addEventListener('htmx:beforeSwap', ({ detail }) => {
    const isNews = detail.requestConfig.triggeringEvent?.type === 'news'
    if (detail.shouldSwap && isNews && shown()) before = look()
  })

  document.addEventListener('htmx:afterSwap', () => {
    if (!before || !shown()) return
    const [was, is] = [before, look()]
    before = null
    note('phase', was.phase, is.phase)
    for (const id of new Set([...was.states.keys(), ...is.states.keys()])) {
      const states = [was.states.get(id), is.states.get(id)]
      if (states[0] === states[1]) continue
      note(id, ...states)
      if (states[1]) mark(document.getElementById(id))
    }
    if (was.places !== undefined && is.places !== undefined) note('place-s', Number(was.places), Number(is.places))
    if (was.count !== undefined && is.count !== undefined && was.count !== is.count) mark(document.getElementById('seat-count'))
  })
})()
