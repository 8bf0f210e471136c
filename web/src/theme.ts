// Light, dark, or what the system says.
import { signal } from '@preact/signals';

export type Theme = 'system' | 'light' | 'dark';
const key = 'postbus-theme';

export const theme = signal<Theme>((localStorage.getItem(key) as Theme | null) ?? 'system');
/** Grows whenever the colours have changed: a canvas has to be drawn again. */
export const colours = signal(0);

export function startTheme(): void {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => (colours.value += 1));
  apply();
}

export function nextTheme(): void {
  theme.value = theme.value === 'system' ? 'light' : theme.value === 'light' ? 'dark' : 'system';
  localStorage.setItem(key, theme.value);
  apply();
}

function apply(): void {
  document.documentElement.dataset.theme = theme.value;
  colours.value += 1;
}
