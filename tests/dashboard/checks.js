/* checks.js - what the tests ask of any state of the page; run in it. */

window.checks = {
  /* Visible text whose contrast with what is behind it is under 4.5 (3 for what is switched off). */
  contrast() {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (color) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const behind = (node) => {
      const stack = [];
      for (let n = node; n instanceof Element; n = n.parentElement) stack.push(rgba(getComputedStyle(n).backgroundColor));
      return stack.reverse().reduce((below, color) => over(color, below), [255, 255, 255]);
    };
    const light = (color) => color.slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const bad = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest('.hidden-text, .skip, noscript, svg')) continue;
      const ground = behind(node);
      const pair = [light(over(rgba(getComputedStyle(node).color), ground)), light(ground)].sort((a, b) => b - a);
      const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
      if (ratio < (node.closest(':disabled') ? 3 : 4.5)) bad.push(`${node.innerText.slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return bad;
  },

  /* Elements that reach beyond the window although nothing around them scrolls. */
  overflow() {
    const wide = document.documentElement.clientWidth;
    return [...document.querySelectorAll('body *')].filter((node) => {
      if (!node.checkVisibility() || node.closest('.hidden-text, svg')) return false;
      for (let n = node.parentElement; n; n = n.parentElement) {
        if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(n).overflowX)) return false;
      }
      return node.getBoundingClientRect().right > wide + 1;
    }).map((node) => `${node.tagName}.${node.className} ${node.getBoundingClientRect().right}`);
  },
};
