// What the page says when nothing gets through.
(() => {
  const NEWS = 'get'
  const STALE = 'The connection is lost. What you see may be out of date.'
  const RELOAD = 'That did not work. Please reload the page and try again.'
  const FAILURES_BEFORE_SAYING_SO = 3

  const notice = document.getElementById('seat-notice')
  let failures = 0

  function isBack() {
    failures = 0
    if (notice.textContent === STALE) notice.textContent = ''
  }

  document.addEventListener('htmx:afterRequest', ({ detail }) => {
    const status = detail.xhr.status
    // Not detail.successful: htmx leaves that unset where the answer leads to another page.
    const isAnswer = (status >= 200 && status < 400) || [400, 409].includes(status)
    if (isAnswer) {
      isBack()
    } else if (detail.requestConfig.verb !== NEWS) {
      // Of what may have been done all the same lost_answer.js tells.
      if (status > 0 && status < 500) notice.textContent = RELOAD
    } else if (++failures === FAILURES_BEFORE_SAYING_SO) {
      notice.textContent = STALE
    }
  })

  document.addEventListener('live', isBack)
})()
