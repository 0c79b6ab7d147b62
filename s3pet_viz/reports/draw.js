(function () {
  "use strict";
  var holders = Array.prototype.slice.call(document.querySelectorAll("[data-figure]"));
  var options = {responsive: true, displaylogo: false};
  function failed(holder, error) {
    holder.textContent = "This figure could not be drawn: " + error;
  }
  function draw(i) {
    if (i === holders.length) {
      document.documentElement.setAttribute("data-drawn", "yes");
      return;
    }
    var holder = holders[i];
    function next() { setTimeout(draw, 0, i + 1); }
    try {
      var figure = JSON.parse(document.getElementById(holder.getAttribute("data-figure")).textContent);
      Plotly.newPlot(holder, figure.data, figure.layout, options).then(next, function (error) {
        failed(holder, error);
        next();
      });
    } catch (error) {
      failed(holder, error);
      next();
    }
  }
  function sized(change) {
    holders.forEach(function (holder) {
      if (holder.data) { Plotly.relayout(holder, change); }
    });
  }
  window.addEventListener("beforeprint", function () { sized({width: 690}); });
  window.addEventListener("afterprint", function () { sized({width: null, autosize: true}); });
  draw(0);
})();
