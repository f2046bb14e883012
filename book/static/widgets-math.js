// The widgets' scripts ask MathJax 2 to typeset their labels; this hands the wish to MathJax 3.
(function wait() {
  if (!window.MathJax?.typesetPromise) return void setTimeout(wait, 50);
  MathJax.Hub = { Queue: ([, , element]) => MathJax.typesetPromise(element ? [element] : []) };
})();
window.MathJax ??= {};
window.MathJax.Hub ??= { Queue() {} };
