#!/usr/bin/env node
const isNumber = require('is-number');
console.log(process.argv.slice(2).filter(isNumber).map((side) => side * side).join(' '));
